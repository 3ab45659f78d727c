"""Tables of a run, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.bars import DIRECT, LICENSED, PEERS, chosen, over_best_peer
from benchmarks.case import Case, problem
from benchmarks.engine import ENGINES
from benchmarks.results import Results, geometric_mean
from opc.report.tables import table


def tables(results: Results, describe: Callable[[Case], str]) -> list[str]:
    """One table per dtype, batch and number of threads."""
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in results.cases():
        groups.setdefault((case.dtype, case.batch, case.threads), []).append(case)
    return [_table(results, cases, describe) for cases in groups.values()]


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


def _table(results: Results, cases: Sequence[Case], describe: Callable[[Case], str]) -> str:
    first = cases[0]
    engines = [e for e in ENGINES if any(results.of(case, e) for case in cases)]
    names = ["", "shape", *engines, "GFLOP/s", "of peak", "best peer", "direct", "licensed"]
    rows = [
        [c.name, describe(c), *(_times(results, c, e) for e in engines), *_ratios(results, c)] for c in cases
    ]
    title = (
        f"{first.dtype}, batch {first.batch}, {first.threads} thread(s): median (best) in ms, * = contended"
    )
    return f"{title}\n{table(names, [*rows, _means(results, cases, engines)])}"


def _times(results: Results, case: Case, engine: str) -> str:
    median, best = results.median(case, engine), results.best(case, engine)
    if median is None or best is None:
        return "-"
    mark = "*" if min(s.contended for s in results.of(case, engine)) > 0.5 else ""
    return f"{median * 1e3:.3f} ({best * 1e3:.3f}){mark}"


def _ratios(results: Results, case: Case) -> list[str]:
    """GFLOP/s of the direct kernel, its share of the peak, the best peer, and our speed over it."""
    ours = chosen(results, case, DIRECT)
    seconds = results.median(case, ours) if ours else None
    rate = problem(case).flops / seconds if seconds else None
    peak = results.peaks.get(f"{case.dtype}/{case.threads}")
    ratios = (over_best_peer(results, case, engines) for engines in (DIRECT, LICENSED))
    return [
        f"{rate / 1e9:.0f}" if rate else "-",
        f"{rate / peak:.0%}" if rate and peak else "-",
        results.fastest(case, PEERS) or "-",
        *(f"{r:.2f}" if r else "-" for r in ratios),
    ]


def _means(results: Results, cases: Sequence[Case], engines: Sequence[str]) -> list[str]:
    """Geometric means: of our speed over each engine, and over the best peer."""
    cells = []
    for engine in engines:
        found = [
            r for c in cases if (o := chosen(results, c, DIRECT)) and (r := results.speedup(c, o, engine))
        ]
        mean = geometric_mean(found)
        cells.append(f"x{mean:.3f}" if mean else "-")
    best = [
        geometric_mean(r for c in cases if (r := over_best_peer(results, c, names)))
        for names in (DIRECT, LICENSED)
    ]
    return [
        "",
        "our speed over it, geometric mean",
        *cells,
        "",
        "",
        "",
        *(f"{b:.3f}" if b else "-" for b in best),
    ]
