"""Simulated cycles of ResNet-50's convolutions on the NPU, against the least that operator and machine allow.

    python benchmarks/npu.py --quick     layers c01 c03 c03t c08 c11t c14 c18 on ascend910, about a minute
    python benchmarks/npu.py             all 23 layers

Every layer is convolution, batch norm and ReLU in f16, channels last, 32 images over 32 cores, data in L2; with a t
it is the kernel with two roles on one pipe: normalisation and ReLU of the input, convolution, moments. The modes
differ in passes and their options only; every listing is proved before it is timed. Each runs without the numerics
licence and, marked +, with it: fused modes then fold batch norm into weights and bias and may take moments from sums
that the cube makes, and the bound is that of the licensed epilogue. total_gain and fusion_gain are separate operators
as written, (a) and (a2), over the fused kernel with the licence, (d)+; without it, and with it on both sides, they are
printed too. order_gain is (c)+ over (d)+ of the kernels with two roles, printed without the licence too.
docs/benchmarks.md says more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.npu_bound import bound
from benchmarks.npu_modes import MODES, Measured, measure, specialised
from benchmarks.npu_report import plot, table
from benchmarks.npu_results import Row, bars, write
from benchmarks.problems.npu import PROBLEMS
from benchmarks.progress import Progress
from opc import machine as machines
from opc.dtypes import DType
from opc.errors import OpcError
from opc.machine.model import Machine
from opc.numerics import FAST, NUMERICS

BARRED = "ascend910"  # the machine whose figures decide the bars; others are shown
WITHOUT_BARS = ("ascend910b",)
QUICK = ("c01", "c03", "c03t", "c08", "c11t", "c14", "c18")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print, write; 1 if a kernel could not be compiled or proved in some mode."""
    options = _options(arguments)
    found: dict[str, list[Row]] = {}
    runs = [(shape, numerics) for numerics in options.numerics for shape in options.shapes]
    with Progress(len(options.machines) * len(runs) * len(MODES)) as progress:
        for name in options.machines:
            machine = machines.load(name)
            found[name] = [_row(shape, machine, numerics, progress) for shape, numerics in runs]
    lines = bars(found.get(BARRED, []))
    write(options.output, found, lines)
    for name, rows in found.items():
        for numerics in options.numerics:
            print(table(name, [r for r in rows if r.numerics == numerics], numerics), end="\n\n")
        target = options.output.with_name(f"{options.output.stem}-{name}.png")
        if (
            reason := plot(name, [r for r in rows if r.numerics == options.numerics[-1]], target)
        ) is not None:
            print(f"no plot: {reason}", file=sys.stderr)
    print(*lines, sep="\n")
    return 1 if any(r.problems for r in found.get(BARRED, [])) else 0


def _row(shape: str, machine: Machine, numerics: str, progress: Progress) -> Row:
    problem = PROBLEMS[shape]
    function = specialised(problem, machine)
    modes: dict[str, Measured] = {}
    problems: dict[str, str] = {}
    for mode in MODES.values():
        progress.begin(f"{machine.name} {shape} {mode.name} {numerics}")
        try:
            modes[mode.name] = measure(function, machine, mode, numerics)
        except OpcError as problem_met:
            problems[mode.name] = str(problem_met)
        progress.done()
    least = bound(problem, machine, DType.F16, numerics == FAST)
    return Row(shape, str(problem.conv), problem.roles, least, modes, problems, numerics)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shipped = [m for m in (BARRED, *WITHOUT_BARS) if m in machines.names()]
    parser.add_argument("--quick", action="store_true", help=f"{' '.join(QUICK)} on {BARRED}")
    parser.add_argument("--shapes", type=_words, metavar="NAMES", help="default: all")
    parser.add_argument(
        "--numerics", type=_words, default=NUMERICS, metavar="NAMES", help=f"default: {','.join(NUMERICS)}"
    )
    parser.add_argument("--machines", type=_words, metavar="NAMES", help=f"default: {','.join(shipped)}")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/bench/npu.json"),
        metavar="FILE.json",
        help="beside it one .png for each machine",
    )
    options = parser.parse_args(arguments)
    options.shapes = options.shapes or (QUICK if options.quick else tuple(PROBLEMS))
    options.machines = options.machines or ((BARRED,) if options.quick else tuple(shipped))
    if unknown := [name for name in options.shapes if name not in PROBLEMS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(PROBLEMS)}")
    if unknown := [name for name in options.numerics if name not in NUMERICS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(NUMERICS)}")
    return options


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
