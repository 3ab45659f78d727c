"""The optimum of a scheduling problem, or a bound on it, by constraint programming (OR-Tools CP-SAT).

The model is that of ``replay``: pipes work on one task at a time, the dispatcher on one at a time before a task
starts, and edges are least distances. Every figure is rounded to a grid first (``on_grid``), because the solver
counts in integers; compare with orders of the rounded problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

from opc.errors import RuntimeCallError, fail
from opc.schedule.problem import Edge, Problem, Task, bounds, replay

GRID = 4  # parts of a cycle that the solver tells apart


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best order that the solver knows, its makespan, and what no order beats."""

    order: list[int]
    makespan: float
    bound: float

    @property
    def closed(self) -> bool:
        """Whether the order is proven to be optimal."""
        return self.makespan <= self.bound * (1 + 1e-9)


def solver() -> ModuleType:
    """The solver's Python module. Raises RuntimeCallError E0932 where it is not installed."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        message = "the optimum of an order needs OR-Tools, which is not installed"
        help = "pip install 'opc-compiler[optimal]'"
        raise fail(RuntimeCallError, "E0932", message, help=help) from None
    found: ModuleType = cp_model
    return found


def on_grid(problem: Problem, grid: int = GRID) -> Problem:
    """The problem in integers: every figure times ``grid``, rounded."""

    def whole(x: float) -> int:
        return round(x * grid)

    tasks = tuple(
        Task(
            tuple((p, whole(b), whole(e)) for p, b, e in t.pipes),
            whole(t.latency),
            whole(t.dispatch),
            t.holds,
            whole(t.release),
        )
        for t in problem.tasks
    )
    return Problem(tasks, tuple(Edge(e.source, e.target, whole(e.wait), e.distance) for e in problem.edges))


def optimum(problem: Problem, seconds: float, hint: Sequence[int], workers: int = 1) -> Optimum:
    """Solve a problem of integers, starting from the order ``hint``."""
    cp = solver()
    run = replay(problem, hint)
    least = bounds(problem).least
    if run.end <= least:
        return Optimum(list(hint), run.end, run.end)
    model = cp.CpModel()
    starts, dispatched = _model(cp, model, problem, int(run.end), int(least), run.starts[0])
    found = cp.CpSolver()
    found.parameters.max_time_in_seconds = seconds
    found.parameters.num_workers = workers
    found.parameters.random_seed = 1
    status = found.solve(model)
    bound = max(float(least), float(found.best_objective_bound))
    if status not in (cp.OPTIMAL, cp.FEASIBLE):
        return Optimum(list(hint), run.end, min(bound, run.end))
    order = _order(problem, [found.value(s) for s in starts], [found.value(d) for d in dispatched])
    end = replay(problem, order).end
    best, end = (order, end) if end <= run.end else (list(hint), run.end)
    return Optimum(best, end, min(bound, end))


def _order(problem: Problem, starts: Sequence[int], dispatched: Sequence[int]) -> list[int]:
    """Tasks by their dispatch, those of one pipe by their start, dependences kept."""
    pipes: dict[str, list[tuple[int, int]]] = {}
    for j, t in enumerate(problem.tasks):
        for p, begin, _ in t.pipes:
            pipes.setdefault(p, []).append((starts[j] + int(begin), j))
    rows = [[j for _, j in sorted(row)] for row in pipes.values()]
    chains = [Edge(i, j, 0) for row in rows for i, j in pairwise(row)]
    ranks = [n for n, _ in sorted(enumerate(dispatched), key=lambda d: (d[1], starts[d[0]], d[0]))]
    place = {j: n for n, j in enumerate(ranks)}
    # Numbered by dispatch, so that the order which keeps all edges prefers it.
    edges = [Edge(place[e.source], place[e.target], 0, e.distance) for e in (*problem.edges, *chains)]
    tasks = tuple(problem.tasks[j] for j in ranks)
    return [ranks[n] for n in Problem(tasks, tuple(edges)).topological]


def _model(
    cp: ModuleType, model: Any, problem: Problem, horizon: int, least: int, hint: Sequence[float]
) -> tuple[list[Any], list[Any]]:
    """Variables, constraints and objective; when tasks start and when they are dispatched."""
    starts = [model.new_int_var(int(t.release), horizon, f"s{j}") for j, t in enumerate(problem.tasks)]
    dispatched = list(starts)
    end = model.new_int_var(least, horizon, "end")
    held: dict[str, list[Any]] = {}
    for j, t in enumerate(problem.tasks):
        model.add(starts[j] + int(problem.ends[j]) <= end)
        model.add_hint(starts[j], int(hint[j]))
        for p, begin, stop in t.pipes:
            if stop > begin:
                part = model.new_fixed_size_interval_var(starts[j] + int(begin), int(stop - begin), f"{p}{j}")
                held.setdefault(p, []).append(part)
        if not t.dispatch:
            continue
        if not t.holds:
            dispatched[j] = model.new_int_var(0, horizon, f"d{j}")
            model.add(dispatched[j] <= starts[j])
        part = model.new_fixed_size_interval_var(dispatched[j], int(t.dispatch), f"i{j}")
        held.setdefault("", []).append(part)
    for parts in held.values():
        model.add_no_overlap(parts)
    for source, after in enumerate(problem.after):
        for target, wait in after:
            model.add(starts[target] >= starts[source] + int(wait))
    _behind_loops(model, problem, starts, dispatched)
    model.minimize(end)
    return starts, dispatched


def _behind_loops(model: Any, problem: Problem, starts: Sequence[Any], dispatched: Sequence[Any]) -> None:
    """What runs after a task that holds the dispatcher, on a pipe of it or because it depends on it, is
    dispatched after it.
    """
    loops = [j for j, t in enumerate(problem.tasks) if t.holds and t.dispatch]
    for h in loops:
        loop = problem.tasks[h]
        later = {t for t, _ in problem.after[h]}
        for j in later:
            model.add(dispatched[j] >= starts[h] + int(loop.dispatch))
        earlier = {i for i, _ in problem.before[h]}
        for j, task in enumerate(problem.tasks):
            shared = {p for p, _, _ in task.pipes} & {p for p, _, _ in loop.pipes}
            if j == h or j in later or j in earlier or not shared or (j in loops and j < h):
                continue
            first = model.new_bool_var(f"{j} before {h}")
            model.add(dispatched[j] + int(task.dispatch) <= starts[h]).only_enforce_if(first)
            model.add(dispatched[j] >= starts[h] + int(loop.dispatch)).only_enforce_if(~first)
            for p in sorted(shared):
                one, other = _stretch(task, p), _stretch(loop, p)
                model.add(starts[j] + one[1] <= starts[h] + other[0]).only_enforce_if(first)
                model.add(starts[h] + other[1] <= starts[j] + one[0]).only_enforce_if(~first)


def _stretch(task: Task, pipe: str) -> tuple[int, int]:
    return next((int(b), int(e)) for p, b, e in task.pipes if p == pipe)
