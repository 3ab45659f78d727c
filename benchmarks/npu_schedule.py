"""How good the NPU's orders are: list schedules against OR-Tools CP-SAT, and what scheduling costs.

    python benchmarks/npu_schedule.py --quick     the shipped kernels, 60 random graphs, about a minute
    python benchmarks/npu_schedule.py             1,000 random graphs, up to 60 s of CP-SAT for each problem: hours

A gap is the makespan of our order over the best that is known, less one. Where CP-SAT does not close a problem,
what is known is its best bound, so that the true gap is smaller than what is printed. Random problems that were solved
are kept in build/bench/npu_schedule.jsonl, and a run that was stopped goes on from there (--fresh: from the start).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.graphs import graph
from benchmarks.npu_scaling import measure, plot
from benchmarks.progress import Progress
from opc import driver
from opc.lang import check, kernel_names
from opc.schedule.lists import schedule
from opc.schedule.optimal import on_grid, optimum
from opc.schedule.problem import Problem, bounds, makespan

KERNELS = Path(__file__).resolve().parent.parent / "kernels_dsl"
QUICK_GRAPHS, QUICK_SECONDS = 60, 1.0
GRAPHS, SECONDS = 1000, 60.0
SIZES = (100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Gap:
    """One problem: our makespan, the best known, what no order beats."""

    name: str
    tasks: int
    listed: float
    best: float
    bound: float

    @property
    def closed(self) -> bool:
        """Whether the best known is proven to be the best."""
        return self.best <= self.bound * (1 + 1e-9)

    @property
    def value(self) -> float:
        """How far above the bound our order is, in percent: at least as much as above the optimum."""
        return 100 * (self.listed / self.bound - 1) if self.bound else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Solve, measure, print."""
    options = _options(arguments)
    bodies = kernel_gaps(options.seconds)
    graphs = random_gaps(options)
    print(
        f"{len(bodies)} loop bodies of the shipped kernels on {driver.NPU}, up to {options.seconds:g} s each"
    )
    closed = [g for g in bodies if g.closed]
    for g in sorted(bodies, key=lambda g: -g.value):
        if g.value or not g.closed:
            print(f"  {_line(g)}")
    print(
        f"  closed {len(closed)} of {len(bodies)}; the others are not above the bound by more than what is shown"
    )
    print(*_bars("optimum_gap", closed, mean=3.0, worst=10.0), sep="\n")
    solved = sum(g.closed for g in graphs)
    print(
        f"{len(graphs)} random dependence graphs (seeds 0 to {len(graphs) - 1}), up to {options.seconds:g} s each"
    )
    print(f"  closed {solved} of {len(graphs)}; where not, the gap is to the bound")
    for g in sorted(graphs, key=lambda g: -g.value)[:10]:
        print(f"  {_line(g)}")
    print(*_bars("random_gap", graphs, mean=4.0, p95=15.0), sep="\n")
    points = [measure(size) for size in SIZES]
    print("list-schedule on straight code, dependence analysis included")
    for p in points:
        print(
            f"  {p.instructions:>7,} instructions {p.seconds:8.3f} s, {p.seconds / p.instructions * 1e6:6.1f} us each"
        )
    if (reason := plot(points, options.output.with_suffix(".png"))) is not None:
        print(f"no plot: {reason}", file=sys.stderr)
    print(_bar("schedule_seconds_100k", points[-1].seconds, 10.0))
    return 0


def kernel_gaps(seconds: float) -> list[Gap]:
    """Every body of two statements and more of every shipped kernel, at its example's sizes, channels last."""
    machine = driver.target_machine("npu")
    found = []
    for path in sorted(KERNELS.glob("*.k")):
        file = check(path.read_bytes(), str(path))
        for kernel in kernel_names(file):
            images = "nhwc" if "conv" in kernel or "pool" in kernel else None
            function = driver.specialise(file, file.name, machine, kernel, layout=images)
            for body in driver.build(function, machine).bodies():
                if len(body.stmts) > 1:
                    found.append(_gap(f"{kernel} {body.name}", on_grid(body.problem), body.order, seconds))
    return found


def random_gaps(options: argparse.Namespace) -> list[Gap]:
    """The random graphs; those solved before with this limit are read."""
    known: dict[int, Gap] = {}
    if options.output.exists() and not options.fresh:
        for line in options.output.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry.pop("seconds") == options.seconds:
                seed = entry.pop("seed")
                known[seed] = Gap(**entry)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + (options.stop_after or float("inf"))
    with Progress(options.graphs) as progress, options.output.open("a", encoding="utf-8") as out:
        for seed in range(options.graphs):
            name, problem = graph(seed)
            progress.begin(name)
            if seed not in known:
                if time.monotonic() > until:
                    sys.exit(
                        f"stopped at graph {seed} of {options.graphs}; the same command goes on from there"
                    )
                known[seed] = _gap(name, problem, schedule(problem).order, options.seconds)
                entry = {"seed": seed, "seconds": options.seconds, **asdict(known[seed])}
                out.write(json.dumps(entry) + "\n")
                out.flush()
            progress.done()
    return [known[seed] for seed in range(options.graphs)]


def _gap(name: str, problem: Problem, order: Sequence[int], seconds: float) -> Gap:
    listed = makespan(problem, order)
    if listed <= bounds(problem).least:
        return Gap(name, len(problem), listed, listed, listed)
    found = optimum(problem, seconds, order)
    return Gap(name, len(problem), listed, found.makespan, found.bound)


def _line(g: Gap) -> str:
    state = "closed" if g.closed else f"open, best known {g.best:,.0f}"
    return f"{g.name}: {g.tasks} tasks, ours {g.listed:,.0f}, bound {g.bound:,.0f}: {g.value:.2f} % ({state})"


def _bars(name: str, gaps: Sequence[Gap], mean: float, worst: float = 0.0, p95: float = 0.0) -> list[str]:
    values = sorted(g.value for g in gaps)
    if not values:
        return [f"bar {name}_mean n/a {mean:g} short"]
    lines = [_bar(f"{name}_mean", sum(values) / len(values), mean)]
    if worst:
        lines.append(_bar(f"{name}_worst", values[-1], worst))
    if p95:
        lines.append(_bar(f"{name}_p95", values[min(len(values) - 1, int(0.95 * len(values)))], p95))
    return lines


def _bar(name: str, value: float, target: float) -> str:
    return f"bar {name} {value:.3f} {target:g} {'ok' if value <= target else 'short'}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_GRAPHS} graphs, {QUICK_SECONDS:g} s each"
    )
    parser.add_argument("--graphs", type=int, metavar="N", help=f"random graphs (default: {GRAPHS})")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help=f"of CP-SAT per problem (default: {SECONDS:g})"
    )
    parser.add_argument(
        "--stop-after", type=float, metavar="S", help="stop solving random graphs after so long"
    )
    parser.add_argument("--fresh", action="store_true", help="solve again what an earlier run solved")
    parser.add_argument("--output", type=Path, default=Path("build/bench/npu_schedule.jsonl"), metavar="FILE")
    options = parser.parse_args(arguments)
    options.graphs = options.graphs or (QUICK_GRAPHS if options.quick else GRAPHS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    return options


if __name__ == "__main__":
    sys.exit(main())
