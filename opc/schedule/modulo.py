"""Modulo scheduling: one start time per task, the same for every iteration, which start one interval apart.

No interval is shorter than what the busiest pipe works per iteration (``resource_bound``) or what a cycle of
dependences takes per iteration that it spans (``recurrence_bound``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opc.schedule.problem import Edge, Problem, Stretch, Task

ATTEMPTS = 48
DISPATCH = "dispatch"  # taken like a pipe: while a long loop fills its queues nothing else can start
GROWTH = 1.025  # how much longer the interval gets after a failed attempt
EJECTIONS = 6  # placements per task that one attempt may make
PRECISION = 1e-4


@dataclass(frozen=True, slots=True)
class Modulo:
    """The initiation interval and when each task of iteration 0 starts."""

    interval: float
    times: list[float]


def stretches(task: Task) -> tuple[Stretch, ...]:
    """What a task holds, the dispatcher included."""
    return (*task.pipes, (DISPATCH, 0.0, task.dispatch))


def resource_bound(problem: Problem) -> tuple[float, str]:
    """(busy time of the busiest pipe in one iteration, that pipe)."""
    busy: dict[str, float] = {}
    for task in problem.tasks:
        for p, begin, end in stretches(task):
            busy[p] = busy.get(p, 0.0) + end - begin
    return max(((time, p) for p, time in busy.items()), default=(0.0, ""))


def recurrence_bound(problem: Problem) -> float:
    """The least interval with which every cycle of dependences can be kept."""
    low, high = 0.0, 2 * sum(max(0.0, e.wait) for e in problem.edges)
    if not _cyclic(problem, 0.0):
        return 0.0
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _cyclic(problem, middle) else (low, middle)
    return high


def _cyclic(problem: Problem, interval: float) -> bool:
    """Whether some cycle of dependences takes longer than the iterations that it spans."""
    times = [0.0] * len(problem)
    edges = [(e.source, e.target, e.wait - e.distance * interval) for e in problem.edges]
    for _ in range(len(times) + 1):
        later = [(t, times[s] + wait) for s, t, wait in edges if times[s] + wait > times[t] + 1e-9]
        if not later:
            return False
        for t, at in later:
            times[t] = max(times[t], at)
    return True


def modulo_schedule(problem: Problem, longest: float) -> Modulo | None:
    """The schedule of the shortest interval found below ``longest``; None if there is none.

    Iteration v starts v intervals later, on pipes that never hold two tasks at once, with every
    dependence kept.
    """
    interval = max(resource_bound(problem)[0], recurrence_bound(problem))
    for _ in range(ATTEMPTS):
        if interval >= longest or not interval:
            return None
        times = _attempt(problem, interval)
        if times is not None:
            return Modulo(interval, times)
        interval *= GROWTH
    return None


def _attempt(problem: Problem, interval: float) -> list[float] | None:
    """Start times for this interval. Tasks are placed by the longest path that hangs on them; one that finds no
    place takes what it needs, and those that it drives out are placed anew (Rau's iterative modulo scheduling).
    """
    table = _Table(problem, interval)
    if table.heights is None:
        return None
    for _ in range(EJECTIONS * len(problem)):
        j = table.next()
        if j is None:
            first = min(t for t in table.times if t is not None)
            # Whole intervals: where in the interval a task lies stays.
            base = first // interval * interval
            return [t - base for t in table.times if t is not None]
        table.place(j)
    return None


class _Table:
    """What is placed where within the interval."""

    def __init__(self, problem: Problem, interval: float) -> None:
        self.tasks, self.interval = problem.tasks, interval
        self.parts = [[s for s in stretches(t) if s[2] > s[1]] for t in problem.tasks]
        self.times: list[float | None] = [None] * len(problem)
        self.last: list[float] = [-1.0] * len(problem)
        self.taken: dict[str, dict[tuple[int, int], tuple[float, float]]] = {}
        self.into: list[list[Edge]] = [[] for _ in problem.tasks]
        self.out: list[list[Edge]] = [[] for _ in problem.tasks]
        for e in problem.edges:
            self.into[e.target].append(e)
            self.out[e.source].append(e)
        self.heights = _heights(problem, interval)

    def next(self) -> int | None:
        """The task to place now: the one with the longest path after it."""
        assert self.heights is not None
        waiting = [(-self.heights[j], j) for j, t in enumerate(self.times) if t is None]
        return min(waiting)[1] if waiting else None

    def place(self, j: int) -> None:
        """Put a task at the first free place from the earliest start on that those before it allow."""
        low = 0.0
        for e in self.into[j]:
            at = self.times[e.source]
            if at is not None and e.source != j:
                low = max(low, at + e.wait - e.distance * self.interval)
        at = self._fit(j, low)
        if at is None:
            at = max(low, self.last[j] + 1.0)
        self.times[j] = self.last[j] = at
        self._drive_out(j, at)
        for n, (p, begin, end) in enumerate(self.parts[j]):
            self.taken.setdefault(p, {})[j, n] = ((at + begin) % self.interval, end - begin)

    def _fit(self, j: int, low: float) -> float | None:
        """The earliest start from ``low`` on at which all pipes are free; starts repeat after an interval."""
        starts = [low]
        for p, begin, _ in self.parts[j]:
            for other, length in self.taken.get(p, {}).values():
                starts.append(low + (other + length - begin - low) % self.interval)
        return next((at for at in sorted(starts) if not any(True for _ in self._in_the_way(j, at))), None)

    def _in_the_way(self, j: int, at: float) -> Sequence[int]:
        return [
            i
            for p, begin, end in self.parts[j]
            for (i, _), (other, length) in self.taken.get(p, {}).items()
            if not _apart((at + begin) % self.interval, end - begin, other, length, self.interval)
        ]

    def _drive_out(self, j: int, at: float) -> None:
        gone = set(self._in_the_way(j, at))
        for e in self.out[j]:
            then = self.times[e.target]
            if then is not None and e.target != j and then < at + e.wait - e.distance * self.interval - 1e-9:
                gone.add(e.target)
        for i in gone:
            self.times[i] = None
            for p, _, _ in self.parts[i]:
                for key in [k for k in self.taken.get(p, {}) if k[0] == i]:
                    del self.taken[p][key]


def _heights(problem: Problem, interval: float) -> list[float] | None:
    """Longest path from each task, iterations ``interval`` apart; None if one never ends."""
    found = [0.0] * len(problem)
    edges = [(e.source, e.target, e.wait - e.distance * interval) for e in problem.edges]
    for _ in range(len(found) + 1):
        changed = False
        for s, t, wait in reversed(edges):
            if found[t] + wait > found[s] + 1e-6 * interval:
                found[s] = found[t] + wait
                changed = True
        if not changed:
            return found
    return None


def _apart(a: float, a_length: float, b: float, b_length: float, interval: float) -> bool:
    """Whether two stretches of a circle of length ``interval`` do not overlap."""
    slack = 1e-6 * interval
    return a_length <= (b - a) % interval + slack and b_length <= (a - b) % interval + slack
