"""The shortest initiation interval of a loop, by constraint programming: what modulo schedules are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from types import ModuleType
from typing import Any

from opc.schedule.modulo import Modulo, recurrence_bound, resource_bound, stretches
from opc.schedule.optimal import solver
from opc.schedule.problem import Problem

STAGES = 8  # iterations that may overlap


@dataclass(frozen=True, slots=True)
class Interval:
    """The shortest interval known, with start times, and what none is shorter than."""

    best: Modulo
    bound: float

    @property
    def closed(self) -> bool:
        """Whether no shorter interval exists, to the last part of the grid."""
        return self.best.interval < self.bound + 1


def shortest(problem: Problem, known: Modulo, seconds: float) -> Interval:
    """Bisect between the bounds and a known schedule of a problem of integers; ``seconds`` for each question."""
    cp = solver()
    bound = max(resource_bound(problem)[0], ceil(recurrence_bound(problem) - 1e-3))
    low, best, open_ = int(bound), known, False
    high = ceil(known.interval - 1e-6)
    while low < high:
        middle = (low + high) // 2
        found = _times(cp, problem, middle, seconds)
        if isinstance(found, list):
            best, high = Modulo(middle, found), middle
            continue
        low = middle + 1
        open_ = open_ or found is None
        if found is False and not open_:
            bound = low
    # Intervals that are no whole parts of the grid may lie just below the bound on those that are.
    return Interval(best, min(bound, best.interval))


def _times(cp: ModuleType, problem: Problem, interval: int, seconds: float) -> list[float] | bool | None:
    """Start times for this interval; False if there are none, None if the solver does not know."""
    model = cp.CpModel()
    starts: list[Any] = []
    held: dict[str, list[Any]] = {}
    for j, task in enumerate(problem.tasks):
        start = model.new_int_var(0, STAGES * interval - 1, f"s{j}")
        starts.append(start)
        for p, begin, end in stretches(task):
            length = int(end - begin)
            if length > interval:
                return False
            if length:
                held.setdefault(p, []).extend(_twice(model, start + int(begin), length, interval, f"{p}{j}"))
    for parts in held.values():
        model.add_no_overlap(parts)
    for e in problem.edges:
        model.add(starts[e.target] + e.distance * interval >= starts[e.source] + int(e.wait))
    found = cp.CpSolver()
    found.parameters.max_time_in_seconds = seconds
    found.parameters.num_workers = 1
    found.parameters.random_seed = 1
    status = found.solve(model)
    if status in (cp.OPTIMAL, cp.FEASIBLE):
        return [float(found.value(s)) for s in starts]
    return False if status == cp.INFEASIBLE else None


def _twice(model: Any, at: Any, length: int, interval: int, name: str) -> list[Any]:
    """A stretch within the interval and its copy in the next one: together they cover what wraps around."""
    place = model.new_int_var(0, interval - 1, f"{name} place")
    turn = model.new_int_var(0, 2 * STAGES, f"{name} turn")
    model.add(at == place + interval * turn)
    return [
        model.new_fixed_size_interval_var(place, length, name),
        model.new_fixed_size_interval_var(place + interval, length, f"{name} again"),
    ]
