"""How fast flags are inserted and proved, and how fast the simulator is: ``bar NAME VALUE TARGET ok|short``.

simulator_rate       instructions a second in timing mode, on a product of 4096 x 4096 matrices
functional_seconds   a 64x56x56 3x3 convolution, batch 1, computed instruction by instruction
sync_seconds_100k    insert-sync on 100,000 instructions without loops (the curve is printed too)
proof_seconds_100k   the static proof of that listing
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import kernels_dsl  # noqa: E402
from benchmarks.sync.lines import line  # noqa: E402
from benchmarks.sync.shipped import Array, arrays  # noqa: E402
from opc import driver, npu  # noqa: E402
from opc import machine as machines  # noqa: E402
from opc.machine import Machine  # noqa: E402
from opc.npu.listing import Listing  # noqa: E402
from opc.pipeline import Context  # noqa: E402
from opc.program.ir import Program  # noqa: E402
from opc.report.tables import table  # noqa: E402
from passes.program.insert_sync import InsertSync  # noqa: E402
from passes.program.plan_memory import PlanMemory  # noqa: E402

LENGTHS = (1_000, 10_000, 100_000)
T = TypeVar("T")


def main() -> int:
    """Print the curve and the bars; 0 whatever they say."""
    options = arguments()
    target = machines.load(options.machine)
    rows = [curve(target, n) for n in LENGTHS[: 2 if options.quick else 3]]
    header = ("instructions", "insert-sync s", "proof s", "flags and barriers", "timing s")
    print(
        table(
            header, [(f"{r[0]:,}", *(f"{x:.2f}" for x in r[1:3]), f"{r[3]:,}", f"{r[4]:.2f}") for r in rows]
        )
    )
    if not options.quick:
        bar("sync_seconds_100k", rows[-1][1], 10.0, rows[-1][1] <= 10.0)
        bar("proof_seconds_100k", rows[-1][2], 10.0, rows[-1][2] <= 10.0)
    rate = timing_rate(target)
    bar("simulator_rate", rate, 200_000, rate >= 200_000)
    seconds = functional(target)
    bar("functional_seconds", seconds, 3.0, seconds < 3.0)
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", default="ascend910")
    parser.add_argument("--quick", action="store_true", help="the curve up to 10,000 instructions only")
    return parser.parse_args()


def curve(target: Machine, length: int) -> tuple[int, float, float, int, float]:
    """Seconds for one length, and how many flags and barriers there are."""
    planned = PlanMemory().run(line(target, length, 1), Context(target))
    final, inserting = timed(lambda: InsertSync().run(planned, Context(target)))
    assert isinstance(final, Program)
    listing = npu.emit(final, target)
    proof, proving = timed(lambda: npu.prove(listing, target))
    _, playing = timed(lambda: npu.time(listing, target))
    return length, inserting, proving, proof.instructions - length, playing


def timing_rate(target: Machine) -> float:
    """Instructions a second, the best of three."""
    listing = compiled(target, "matmul", M=4096, N=4096, K=4096)[-1]
    runs = [timed(lambda: npu.time(listing, target)) for _ in range(3)]
    return max(timeline.instructions / seconds for timeline, seconds in runs)


def functional(target: Machine) -> float:
    """Seconds for the listings of prepare and run."""
    memory: dict[str, Array] = {}
    spent = 0.0
    for listing in compiled(target, "conv_bn_relu", N=1, C=64, H=56, W=56, K=64):
        known = {t.name: memory[t.name].reshape(t.shape) for t in listing.tensors if t.name in memory}
        given = arrays(listing) | known
        results, seconds = timed(lambda listing=listing, given=given: npu.simulate(listing, given, target))  # type: ignore[misc]
        memory |= results
        spent += seconds
    return spent


def compiled(target: Machine, name: str, **sizes: int) -> list[Listing]:
    """The listings of a shipped kernel."""
    function = driver.specialise(kernels_dsl.source(name), name, target, name, sizes)
    return [npu.emit(p, target) for p in driver.build(function, target).module.programs if p.body]


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def bar(name: str, value: float, target: float, fine: bool) -> None:
    """Print one line."""
    print(f"bar {name} {value:,.2f} {target:g} {'ok' if fine else 'short'}".replace(",", ""), flush=True)


if __name__ == "__main__":
    sys.exit(main())
