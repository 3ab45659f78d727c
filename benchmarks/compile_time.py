"""How long compiling takes: ``bar NAME VALUE TARGET ok|short``, in milliseconds.

    compile_conv_bn_relu  kernels_dsl/conv_bn_relu.k on this computer's machine
    compile_worst         the slowest of ResNet-50's convolutions and the other benchmark kernels, on every CPU machine
    compile_cached        the same kernels in a second process, its imports (NumPy's apart) included

Compiler time is from source text to linked machine code, modules already imported; the best of a few rounds, as
another program may be running (``--cpu`` counts this process's time alone). Code for machines that this computer
does not have is compiled, not run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import kernels_dsl  # noqa: E402
from benchmarks.problems.resnet50 import QUICK, RESNET50  # noqa: E402
from opc import driver, machine  # noqa: E402
from opc.cpu import jit  # noqa: E402
from opc.cpu.kernel import lower  # noqa: E402
from opc.cpu.link import UnlinkableError, link  # noqa: E402
from opc.errors import MachineError  # noqa: E402
from opc.report.tables import table  # noqa: E402

MACHINES = ("avx2", "avx512", "avx512bf16", "amx")
CONV_BAR, WORST_BAR, CACHED_BAR = 150.0, 300.0, 30.0
PROCESSES = 7
Clock = Callable[[], float]
_CACHED = """
import sys, time
import numpy, ml_dtypes
import opc
clock = getattr(time, sys.argv[3])
start = clock()
opc.compile(sys.argv[1], dtype=sys.argv[2])
print((clock() - start) * 1e3)
"""


class Job(NamedTuple):
    """One kernel to compile."""

    label: str
    kernel: str
    machine: str
    dtype: str
    layout: str | None = None
    sizes: tuple[tuple[str, int], ...] = ()


class Times(NamedTuple):
    """Milliseconds of the parts of one compilation."""

    front: float
    tensor: float
    lowering: float
    program: float
    emission: float
    llvm: float

    @property
    def total(self) -> float:
        return sum(self)


def main() -> int:
    """Print a table and every bar; 0 whatever they say."""
    options = arguments()
    gc.disable()
    compiled(next(jobs(quick=True)), time.perf_counter)  # imports what a compilation needs
    rows = []
    for job in jobs(options.quick):
        if options.only and options.only not in f"{job.label} {job.machine} {job.dtype}":
            continue
        try:
            rows.append((job, measured(job, options.rounds, _clock(options))))
        except MachineError as refusal:
            print(f"  {job.label} {job.machine} {job.dtype}: {refusal.diagnostics[0].message}")
    rows.sort(key=lambda r: -r[1].total)
    header = ("kernel", "machine", "dtype", "ms", *(f"of it {name}" for name in Times._fields))
    shown = [(j.label, j.machine, j.dtype, *(f"{t:.0f}" for t in (times.total, *times))) for j, times in rows]
    print(table(header, shown[: options.rows]))
    conv = [times.total for job, times in rows if job.label == "conv_bn_relu"]
    bar("compile_conv_bn_relu", max(conv, default=None), CONV_BAR)
    bar("compile_worst", rows[0][1].total if rows else None, WORST_BAR)
    bar("compile_cached", None if options.only else cached(_clock(options).__name__), CACHED_BAR)
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"of the convolutions only {' '.join(QUICK)}")
    parser.add_argument(
        "--only", metavar="TEXT", help="kernels whose name, machine and dtype have this in them"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="time of this process, not of the clock on the wall"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, metavar="N", help="compilations of each (default: 2)"
    )
    parser.add_argument(
        "--rows", type=int, default=12, metavar="N", help="slowest kernels to list (default: 12)"
    )
    return parser.parse_args()


def _clock(options: argparse.Namespace) -> Clock:
    return time.process_time if options.cpu else time.perf_counter


def jobs(quick: bool) -> Iterator[Job]:
    """The shipped example first, then every benchmark kernel for every machine."""
    host = driver.target_machine("cpu").name
    yield Job("conv_bn_relu", "conv_bn_relu", host, "f32")
    for name in QUICK if quick else RESNET50:
        c = RESNET50[name]
        for batch in (1, 8):
            for target in MACHINES:
                for dtype in ("f32", "bf16"):
                    layer = tuple(c.sizes(batch).items())
                    yield Job(f"{name} batch {batch}", "conv_bn_relu", target, dtype, "nhwc", layer)
    others = (
        "matmul",
        "softmax",
        "layer_norm",
        "gelu",
        "max_pool2d",
        "avg_pool2d",
        "batch_norm",
        "batch_stats",
    )
    for kernel in others:
        sizes = {"M": 1024, "N": 1024, "K": 1024} if kernel == "matmul" else {}
        for target in MACHINES:
            for dtype in ("f32", "bf16"):
                yield Job(kernel, kernel, target, dtype, None, tuple(sizes.items()))


def measured(job: Job, rounds: int, clock: Clock) -> Times:
    """The fastest of some compilations."""
    return min((compiled(job, clock) for _ in range(rounds)), key=lambda t: t.total)


def compiled(job: Job, clock: Clock) -> Times:
    """Compile once. Raises MachineError where the machine lacks the dtype."""
    text, target = kernels_dsl.source(job.kernel), machine.load(job.machine)
    marks = [clock()]
    function = driver.specialise(text, job.kernel, target, job.kernel, dict(job.sizes), job.dtype, job.layout)
    marks.append(clock())
    phases = {"tensor": 0.0, "lowering": 0.0, "program": 0.0}
    names = {p.name: level for level in phases for p in driver.pipeline(level)}
    last = clock()

    def after(step: object) -> None:
        nonlocal last
        now = clock()
        phases[names[step.name]] += now - last  # type: ignore[attr-defined]
        last = now

    built = driver.build(function, target, after)
    marks.append(clock())
    unit = lower(*built.module.programs, target)
    marks.append(clock())
    with contextlib.suppress(UnlinkableError):
        link(jit.object_code(unit.text, unit.target))
    marks.append(clock())
    front, _, emission, llvm = (b - a for a, b in pairwise(marks))
    gc.collect()
    return Times(*(s * 1e3 for s in (front, *phases.values(), emission, llvm)))


def cached(clock: str) -> float:
    """Median of ``opc.compile`` in fresh processes that find the kernel in the cache; the worse of two dtypes."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        env = {**kept, "PYTHONPATH": str(ROOT), "OPC_CACHE_DIR": folder}

        def once(dtype: str) -> float:
            command = [sys.executable, "-c", _CACHED, str(kernels_dsl.path("conv_bn_relu")), dtype, clock]
            return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)

        for dtype in ("f32", "bf16"):
            print(f"  first process, {dtype}: {once(dtype):.0f} ms with all imports")
        return max(statistics.median(once(d) for _ in range(PROCESSES)) for d in ("f32", "bf16"))


def bar(name: str, value: float | None, target: float) -> None:
    """Print one line."""
    if value is None:
        print(f"bar {name} n/a {target:g} n/a")
        return
    print(f"bar {name} {value:.1f} {target:g} {'ok' if value <= target else 'short'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
