"""What the scripts share: options, the loop over sets of processes, the report."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import jemalloc
from benchmarks.bars import Bar, Least, bar_lines
from benchmarks.case import Case
from benchmarks.check import Checker
from benchmarks.engine import ENGINES, Entry
from benchmarks.harness import Plan, Session
from benchmarks.plot import plot
from benchmarks.progress import Progress
from benchmarks.report import View, header, memories, simulations, tables
from benchmarks.results import Results


@dataclass(frozen=True)
class Suite:
    """One script. A quick run measures ``quick`` names and the first number of threads, in one set."""

    family: str
    about: str
    names: tuple[str, ...]
    quick: tuple[str, ...]
    batches: tuple[int, ...]
    quick_batches: tuple[int, ...]
    view: View
    bars: Callable[[Results], Sequence[Bar | Least]]
    dtypes: tuple[str, ...] = ("f32", "bf16")
    threads: tuple[int, ...] = (1, 2)
    batch_help: str = ""
    plan: Plan = Plan()  # noqa: RUF009  (frozen)
    checker: Callable[[], Checker] = Checker
    simulate: Callable[[str, Results], None] | None = None  # cycles of one name on the NPU
    quick_simulated: tuple[str, ...] = ()

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that compute this family."""
        return tuple(e.name for e in ENGINES.values() if self.family in e.families)


def run(suite: Suite, arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a result of opc was wrong."""
    options = _options(suite, arguments)
    results = Results()
    for path in options.source:
        results.merge(Results.read(path))
    if not options.source:
        try:
            results.settings = _settings(options)
            if "cpu" in options.targets:
                _measure(suite, options, results)
            if "npu" in options.targets:
                _simulate(suite, options, results)
        except KeyboardInterrupt:
            results.settings["interrupted"] = True  # what was measured is worth keeping
    bars = bar_lines(suite.bars(results))
    if not options.source:
        results.write(options.output, bars)
    print(*header(results), sep="\n")
    for text in (*tables(results, suite.view), *memories(results), *simulations(results)):
        print(f"\n{text}")
    print("", *bars, sep="\n")
    for line in results.failures:
        print(f"FAILED {line}")
    _draw(results, suite, options)
    return 1 if results.failures else 0


def _draw(results: Results, suite: Suite, options: argparse.Namespace) -> None:
    target = options.plot or (None if options.source else options.output.with_suffix(".png"))
    if target is not None and (reason := plot(results, suite.view, target)) is not None:
        print(f"no plot: {reason}", file=sys.stderr)


def _targets(suite: Suite) -> tuple[str, ...]:
    return ("cpu", "npu") if suite.simulate else ("cpu",)


def _parser(suite: Suite) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=suite.about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    quick = f"one set of processes, one thread, batch {_join(suite.quick_batches)}: {_join(suite.quick)}"
    add("--quick", action="store_true", help=quick)
    add("--shapes", type=_words, metavar="NAMES", help=f"of {_join(suite.names)} (default: all)")
    add("--dtype", type=_words, default=suite.dtypes, metavar="NAMES", help=f"of {_join(suite.dtypes)}")
    add("--batch", type=_numbers, metavar="N,...", help=f"{suite.batch_help}default: {_join(suite.batches)}")
    add("--threads", type=_numbers, metavar="N,...", help=f"default: {_join(suite.threads)}")
    add("--engines", type=_words, default=suite.engines, metavar="NAMES", help=f"of {_join(suite.engines)}")
    targets = ("cpu", "npu") if suite.simulate else ("cpu",)
    if suite.simulate:
        add(
            "--targets",
            type=_words,
            default=targets,
            metavar="NAMES",
            help=f"of {_join(targets)}; a quick run simulates {_join(suite.quick_simulated)}",
        )
    add("--processes", type=int, metavar="N", help="sets of fresh processes (default: 3)")
    add(
        "--cold-weights",
        action="store_true",
        help="evict the near caches before each call, then read the input",
    )
    add(
        "--passive",
        action="store_true",
        help="waiting threads sleep at once: for computers that others use too",
    )
    folder = Path("build/bench")
    add(
        "--output",
        type=Path,
        default=folder / f"{suite.family}.json",
        metavar="FILE.json",
        help="beside it: .png",
    )
    add(
        "--from",
        dest="source",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="report these, do not measure",
    )
    add("--plot", type=Path, metavar="FILE.png", help="where to draw")
    return parser


def _options(suite: Suite, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser, targets = _parser(suite), _targets(suite)
    options = parser.parse_args(arguments)
    options.targets = options.targets if suite.simulate else targets
    options.simulated = options.shapes or (suite.quick_simulated if options.quick else suite.names)
    options.shapes = options.shapes or (suite.quick if options.quick else suite.names)
    options.batch = options.batch or (suite.quick_batches if options.quick else suite.batches)
    options.threads = options.threads or (suite.threads[:1] if options.quick else suite.threads)
    options.processes = options.processes or (1 if options.quick else 3)
    for given, known in (
        (options.shapes, suite.names),
        (options.engines, suite.engines),
        (options.dtype, suite.dtypes),
        (options.targets, targets),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return options


def _measure(suite: Suite, options: argparse.Namespace, results: Results) -> None:
    """All cells in as many sets of processes as asked for."""
    cpus = len(os.sched_getaffinity(0))
    threads = [t for t in options.threads if t <= cpus]
    for t in sorted(set(options.threads) - set(threads)):
        results.missing[f"{t} threads"] = f"this process may use {cpus} CPU(s)"
    engines = [ENGINES[name] for name in options.engines]
    plan = replace(
        suite.plan,
        cold=_cold_bytes() if options.cold_weights else 0,
        passive=options.passive,
        rounds=5 if options.quick else suite.plan.rounds,
        preload=_preload(engines, results),
    )
    checker, left_out = suite.checker(), set[str]()
    cells = len(options.shapes) * len(options.dtype) * len(options.batch) * len(threads)
    with Progress(options.processes * cells) as progress:
        for number in range(options.processes):
            for count in threads:
                session = Session(results, checker, plan, progress.say, left_out)
                _set(session, progress, engines, _cases(suite, options, count), number)


def _simulate(suite: Suite, options: argparse.Namespace, results: Results) -> None:
    """All names on the NPU, which is nobody's in particular: the same cycles on every computer."""
    assert suite.simulate is not None
    with Progress(len(options.simulated)) as progress:
        for name in options.simulated:
            progress.begin(f"NPU {name}")
            suite.simulate(name, results)
            progress.done()


def _set(session: Session, progress: Progress, engines: list[Entry], cases: list[Case], number: int) -> None:
    """One set of fresh processes on one number of threads."""
    try:
        session.start(engines, cases[0].threads)
        session.peaks(sorted({c.dtype for c in cases}), cases[0].threads)
        for case in cases:
            progress.begin(str(case))
            session.measure(case, number)
            progress.done()
    finally:
        session.close()


def _preload(engines: Sequence[Entry], results: Results) -> str | None:
    if not any(e.jemalloc and e.missing() is None for e in engines):
        return None
    found = jemalloc.find() or jemalloc.fetch()
    if found is None:
        results.missing["jemalloc"] = "not found and not fetched: torch's times include glibc's page faults"
    return found


def _settings(options: argparse.Namespace) -> dict[str, object]:
    from opc.cpu import features

    cpus = len(os.sched_getaffinity(0))
    return {
        "quick": options.quick,
        "shapes": " ".join(options.shapes),
        "processes": options.processes,
        "caches": "weights and result cold, input warm" if options.cold_weights else "hot",
        "waiting": "passive" if options.passive else "as the libraries choose",
        "host": f"{_model()}, {cpus} CPUs, {platform.platform()}",
        "amx": features.amx_permitted(),
    }


def _cases(suite: Suite, options: argparse.Namespace, threads: int) -> list[Case]:
    return [
        Case(suite.family, shape, dtype, batch, threads)
        for dtype in options.dtype
        for batch in options.batch
        for shape in options.shapes
    ]


def _join(values: Sequence[object]) -> str:
    return ",".join(map(str, values))


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
    """Four times the second-level cache; of 2 MiB where Linux does not say."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (index / "level").read_text().strip() == "2":
            return 4 * 1024 * int((index / "size").read_text().strip().removesuffix("K"))
    return 8 << 20
