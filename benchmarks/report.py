"""Tables of a run, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.bars import chosen, over_best_peer
from benchmarks.case import Case, problem
from benchmarks.engine import ENGINES
from benchmarks.results import CONTENDED, Results, geometric_mean
from opc.report.tables import table


@dataclass(frozen=True)
class View:
    """How a suite is shown: the peers that count, our engines in order of preference per column, names."""

    peers: tuple[str, ...]
    ours: dict[str, tuple[str, ...]]
    describe: Callable[[Case], str]

    @property
    def first(self) -> tuple[str, ...]:
        """The engines of the first column, whose rate is shown."""
        return next(iter(self.ours.values()))


def tables(results: Results, view: View) -> list[str]:
    """One table per dtype, batch and number of threads."""
    return [_table(results, cases, view) for cases in grouped(results)]


def memories(results: Results) -> list[str]:
    """The table of the most bytes that a call holds, where they were measured."""
    cases = [c for c in results.cases() if any(results.memory(c, e) is not None for e in ENGINES)]
    engines = [e for e in ENGINES if any(results.memory(c, e) is not None for c in cases)]
    rows = [
        [str(c), *("-" if (m := results.memory(c, e)) is None else f"{m / 2**20:.2f}" for e in engines)]
        for c in cases
    ]
    return [f"MiB that a call holds at its peak\n{table(['case', *engines], rows)}"] if rows else []


def simulations(results: Results) -> list[str]:
    """The table of simulated cycles, where there are any."""
    if not results.simulated:
        return []
    modes = list(next(iter(results.simulated.values())))
    rows = [
        [name, *(f"{cycles[m]:,.0f}" if m in cycles else "-" for m in modes)]
        for name, cycles in results.simulated.items()
    ]
    return [f"NPU: simulated cycles of the busiest core\n{table(['problem', *modes], rows)}"]


def grouped(results: Results) -> list[list[Case]]:
    """Cases of one dtype, batch and number of threads together."""
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in results.cases():
        groups.setdefault((case.dtype, case.batch, case.threads), []).append(case)
    return list(groups.values())


def header(results: Results) -> list[str]:
    """What was measured, with what, on what."""
    lines = [f"{name}: {value}" for name, value in results.settings.items()]
    lines += [f"engine {name}: {version}" for name, version in results.engines.items()]
    lines += [f"without {name}: {reason}" for name, reason in results.missing.items()]
    lines += [f"peak {key} threads: {value / 1e9:.0f} GFLOP/s" for key, value in results.peaks.items()]
    lines += [
        f"checked {name}: worst error {ratio:.3f} of its bound" for name, ratio in results.checked.items()
    ]
    return lines


def title(case: Case) -> str:
    """What the cases of a table share."""
    return f"{case.dtype}, batch {case.batch}, {case.threads} thread(s)"


def rate(results: Results, case: Case, engine: str | None) -> float | None:
    """Operations a second; bytes where a problem has none."""
    seconds = results.median(case, engine) if engine else None
    what = problem(case)
    return (what.flops or what.moved) / seconds if seconds else None


def _table(results: Results, cases: Sequence[Case], view: View) -> str:
    engines = [e for e in ENGINES if any(results.of(case, e) for case in cases)]
    unit = "GFLOP/s" if problem(cases[0]).flops else "GB/s"
    names = ["shape", *engines, unit, "of peak", "best peer", *view.ours]
    rows = [
        [view.describe(c), *(_times(results, c, e) for e in engines), *_ratios(results, c, view)]
        for c in cases
    ]
    lines = table(names, [*rows, _means(results, cases, engines, view)])
    return f"{title(cases[0])}: median (best) in ms, * = mostly contended\n{lines}"


def _times(results: Results, case: Case, engine: str) -> str:
    median, best = results.median(case, engine), results.best(case, engine)
    if median is None or best is None:
        return "-"
    mark = "*" if min(s.contended for s in results.of(case, engine)) > CONTENDED else ""
    return f"{median * 1e3:.3f} ({best * 1e3:.3f}){mark}"


def _ratios(results: Results, case: Case, view: View) -> list[str]:
    """Rate of our kernel, its share of the peak, the best peer, and our speed over it."""
    found = rate(results, case, chosen(results, case, view.first))
    peak = results.peaks.get(f"{case.dtype}/{case.threads}") if problem(case).flops else None
    ratios = (over_best_peer(results, case, engines, view.peers) for engines in view.ours.values())
    return [
        f"{found / 1e9:.4g}" if found else "-",
        f"{found / peak:.0%}" if found and peak else "-",
        results.fastest(case, view.peers) or "-",
        *(f"{r:.3f}" if r else "-" for r in ratios),
    ]


def _means(results: Results, cases: Sequence[Case], engines: Sequence[str], view: View) -> list[str]:
    """Geometric means: of our speed over each engine, and over the best peer."""
    cells = []
    for engine in engines:
        found = [
            r for c in cases if (o := chosen(results, c, view.first)) and (r := results.speedup(c, o, engine))
        ]
        mean = geometric_mean(found)
        cells.append(f"x{mean:.3f}" if mean else "-")
    best = [
        geometric_mean(r for c in cases if (r := over_best_peer(results, c, names, view.peers)))
        for names in view.ours.values()
    ]
    return [
        "our speed over it, geometric mean",
        *cells,
        "",
        "",
        "",
        *(f"{b:.3f}" if b else "-" for b in best),
    ]
