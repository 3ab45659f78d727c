"""The convolutions of ResNet-50 with batch norm and ReLU, on opc and on every library installed.

    python benchmarks/conv.py --quick        a fixed subset, about a minute
    python benchmarks/conv.py                all 184 cells, three sets of processes: this decides the bars

docs/benchmarks.md says what is measured and how to read it. ``--from`` prints the report of JSON files again.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import jemalloc
from benchmarks.bars import bar_lines, conv_bars
from benchmarks.case import Case
from benchmarks.check import Checker
from benchmarks.engine import ENGINES, Entry
from benchmarks.harness import Plan, Session
from benchmarks.progress import Progress
from benchmarks.report import header, tables
from benchmarks.results import Results
from benchmarks.shapes import QUICK, RESNET50

DTYPES, BATCHES, THREADS = ("f32", "bf16"), (1, 8), (1, 2)


def main() -> int:
    """Measure, print, write; 1 if a result of opc was wrong."""
    options = arguments()
    results = Results()
    for path in options.source:
        results.merge(Results.read(path))
    if not options.source:
        measure(options, results)
        results.write(options.output)
    print(*header(results), sep="\n")
    for text in tables(results, lambda case: str(RESNET50[case.name])):
        print(f"\n{text}")
    print("", *bar_lines(conv_bars(results)), sep="\n")
    print(*(f"FAILED {f}" for f in results.failures), sep="\n", end="")
    return 1 if results.failures else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"one set of processes, shapes {' '.join(QUICK)}"
    )
    parser.add_argument("--shapes", type=_words, metavar="c01,c02", help="default: all 23")
    parser.add_argument("--dtype", type=_words, default=DTYPES, metavar="f32,bf16")
    parser.add_argument("--batch", type=_numbers, default=BATCHES, metavar="1,8")
    parser.add_argument("--threads", type=_numbers, default=THREADS, metavar="1,2")
    parser.add_argument("--engines", type=_words, default=tuple(ENGINES), metavar=",".join(ENGINES))
    parser.add_argument("--processes", type=int, metavar="N", help="sets of fresh processes (default: 3)")
    parser.add_argument(
        "--cold-weights",
        action="store_true",
        help="evict the near caches before every call, the input excepted",
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench/conv.json"), metavar="FILE.json")
    parser.add_argument(
        "--from", dest="source", type=Path, nargs="+", default=[], metavar="FILE", help="report these instead"
    )
    options = parser.parse_args()
    options.shapes = options.shapes or (QUICK if options.quick else tuple(RESNET50))
    options.processes = options.processes or (1 if options.quick else 3)
    for given, known in ((options.shapes, RESNET50), (options.engines, ENGINES)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return options


def measure(options: argparse.Namespace, results: Results) -> None:
    """All cells in as many sets of processes as asked for."""
    from opc.cpu import features

    cpus = len(os.sched_getaffinity(0))
    threads = [t for t in options.threads if t <= cpus]
    for t in sorted(set(options.threads) - set(threads)):
        results.missing[f"{t} threads"] = f"this process may use {cpus} CPU(s)"
    preload = jemalloc.find() or jemalloc.fetch()
    if preload is None:
        results.missing["jemalloc"] = "not found and not fetched: torch's allocator is part of its times"
    results.settings = {
        "shapes": " ".join(options.shapes),
        "processes": options.processes,
        "caches": "weights cold, input warm" if options.cold_weights else "hot",
        "host": f"{_model()}, {cpus} CPUs, {platform.platform()}",
        "amx": features.amx_permitted(),
    }
    plan = Plan(processes=options.processes, cold=_cold_bytes() if options.cold_weights else 0)
    engines = [ENGINES[name] for name in options.engines]
    checker = Checker()
    with Progress(options.processes * len(threads) * len(_cases(options, 1))) as progress:
        for number in range(options.processes):
            for count in threads:
                _set(results, checker, plan, progress, engines, _cases(options, count), number, preload)


def _set(
    results: Results,
    checker: Checker,
    plan: Plan,
    progress: Progress,
    engines: list[Entry],
    cases: list[Case],
    number: int,
    preload: str | None,
) -> None:
    """One set of fresh processes on one number of threads."""
    session = Session(results, checker, plan, progress.say)
    threads = cases[0].threads
    try:
        session.start(engines, threads, preload)
        session.peaks(sorted({c.dtype for c in cases}), threads)
        for case in cases:
            progress.begin(str(case))
            session.measure(case, number)
            progress.done()
    finally:
        session.close()


def _cases(options: argparse.Namespace, threads: int) -> list[Case]:
    return [
        Case("conv", shape, dtype, batch, threads)
        for dtype in options.dtype
        for batch in options.batch
        for shape in options.shapes
    ]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cold_bytes() -> int:
    """Four times the second-level cache."""
    size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    return 4 * (size if size > 0 else 2 << 20)


if __name__ == "__main__":
    sys.exit(main())
