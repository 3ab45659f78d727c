"""torch and opc in turn in one process: does either slow the other?

    python benchmarks/torch_threads.py [--threads N] [--seconds S]

A call is a training step of convolution, batch norm and ReLU (channels last, f32), by torch or by ``opc.torch``. A
call of one after a call of the other is compared with a call of the same after another of its own kind on tensors of
its own: caches are as cold, and what differs is whose threads ran before. A round times all ways of taking turns, in
an order that changes from round to round; a case is the median of its rounds. Beside them stands what a step gains
from running again and again on the same tensors, which is caches and nothing else.

    bar torch_threads VALUE 1.05 ok|short          the larger of torch after opc and opc after torch
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Call = Callable[[], Any]
Steps = dict[str, tuple[Call, Call]]
TARGET = 1.05
CASES = (
    "torch after opc, over torch after torch",
    "opc after torch, over opc after opc",
    "torch again on the same tensors, over on others in turn",
    "opc again on the same tensors, over on others in turn",
)
WARM, CALLS = 2, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the bar."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--threads", type=int, metavar="N", help="threads of both (default: all processors)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="time to measure (default: 10)"
    )
    options = parser.parse_args(arguments)
    try:
        import torch
    except ImportError:
        sys.stdout.write(f"PyTorch is not installed\nbar torch_threads n/a {TARGET} n/a\n")
        return 0
    if options.threads:
        torch.set_num_threads(options.threads)
    sys.stdout.write(f"{torch.get_num_threads()} threads, OpenMP runtime {runtime()}\n")
    sys.stdout.write("\n".join(report(measured(steps(torch), options.seconds))) + "\n")
    return 0


def runtime() -> str:
    """Where the runtime lies that opc uses."""
    from opc.cpu import threads

    found = threads.runtime()
    return found.name if found else "none"


def steps(torch: Any) -> Steps:
    """A training step by torch and by opc, on one set of tensors and on another."""
    import opc.torch

    F = torch.nn.functional  # noqa: N806 -- its name in every torch program

    def block() -> tuple[list[Any], list[Any], Any]:
        x = torch.randn(8, 64, 14, 14).to(memory_format=torch.channels_last)
        leaves = [x, torch.randn(64, 64, 3, 3) * 0.05, torch.ones(64), torch.zeros(64)]
        dy = torch.randn(8, 64, 14, 14).to(memory_format=torch.channels_last)
        return [t.requires_grad_() for t in leaves], [torch.zeros(64), torch.ones(64)], dy

    def by_opc(leaves: list[Any], running: list[Any], dy: Any) -> Any:
        y = opc.torch.conv_bn_relu(*leaves, *running, training=True)
        return torch.autograd.grad(y, leaves, dy)

    def by_torch(leaves: list[Any], running: list[Any], dy: Any) -> Any:
        x, w, gamma, beta = leaves
        y = F.relu(F.batch_norm(F.conv2d(x, w, padding=1), *running, gamma, beta, True))
        return torch.autograd.grad(y, leaves, dy)

    torch.manual_seed(0)
    one, other = block(), block()
    kinds = {"torch": by_torch, "opc": by_opc}
    return {name: (partial(step, *one), partial(step, *other)) for name, step in kinds.items()}


def measured(steps: Steps, seconds: float) -> dict[str, list[float]]:
    """What each case costs, as ratios of times, one for each round."""
    (torch, torch_too), (opc, opc_too) = steps["torch"], steps["opc"]
    ways = ((torch, torch_too), (opc_too, opc), (torch, opc), (torch, torch), (opc, opc))
    for way in ways:
        in_turn(*way)
    found: dict[str, list[float]] = {name: [] for name in CASES}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found[CASES[0]]) < 5:
        turn = len(found[CASES[0]]) % len(ways)
        times = {n: in_turn(*ways[n]) for n in (*range(turn, len(ways)), *range(turn))}
        ratios = times[2][0] / times[0][0], times[2][1] / times[1][1]
        again = times[3][0] / times[0][0], times[4][1] / times[1][1]
        for name, ratio in zip(CASES, (*ratios, *again), strict=True):
            found[name].append(ratio)
    return found


def in_turn(first: Call, second: Call) -> tuple[float, float]:
    """The median time of each of two calls that take turns."""
    times = [(timed(first), timed(second)) for _ in range(WARM + CALLS)][WARM:]
    firsts, seconds = zip(*times, strict=True)
    return statistics.median(firsts), statistics.median(seconds)


def timed(call: Call) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(found: dict[str, list[float]]) -> list[str]:
    """The cases and the bar."""
    from benchmarks.bars import Least

    medians = {name: statistics.median(ratios) for name, ratios in found.items()}
    worst = max(medians[name] for name in CASES[:2])
    return Least("torch_threads", TARGET, tuple(medians.items()), worst).lines()


if __name__ == "__main__":
    sys.exit(main())
