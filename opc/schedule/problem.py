"""A scheduling problem and what an order of its tasks takes.

A dispatcher hands tasks to pipes one after another, in the order that a schedule is. A pipe works on one
task at a time, in the order in which it gets them. A task starts when it has been dispatched, its pipes are
free, and every task that it depends on has started for as long as the edge between them says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SETTLED = 4  # simulated iterations after which a loop is taken to be steady
Stretch = tuple[str, float, float]  # pipe, and from when to when it is held, counted from the task's start


@dataclass(frozen=True, slots=True)
class Task:
    """Something that holds pipes for a while. ``latency``: when its results are there."""

    pipes: tuple[Stretch, ...]
    latency: float
    dispatch: float = 0.0
    holds: bool = False  # whether the dispatcher is held from the task's start on, not from its dispatch
    release: float = 0.0  # the earliest start

    @property
    def end(self) -> float:
        """When it is over: its results are there and its pipes are free."""
        return max([self.latency, *(e for _, _, e in self.pipes)])


class Edge(NamedTuple):
    """``target`` of an iteration starts at least ``wait`` after ``source`` of the iteration ``distance``
    before. With distance 0 it also comes later in the order, even where ``wait`` is 0.
    """

    source: int
    target: int
    wait: float
    distance: int = 0


@dataclass(frozen=True)
class Problem:
    """Tasks, given in an order that keeps every edge, and edges."""

    tasks: tuple[Task, ...]
    edges: tuple[Edge, ...]
    before: list[list[tuple[int, float]]] = field(init=False, repr=False, compare=False)
    after: list[list[tuple[int, float]]] = field(init=False, repr=False, compare=False)
    carried: list[list[tuple[int, int, float]]] = field(init=False, repr=False, compare=False)
    topological: list[int] = field(init=False, repr=False, compare=False)
    ends: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        waits: dict[tuple[int, int], float] = {}
        carried: list[list[tuple[int, int, float]]] = [[] for _ in self.tasks]
        for e in self.edges:
            if e.distance and e.wait:
                carried[e.target].append((e.source, e.distance, e.wait))
            elif not e.distance:
                pair = e[:2]
                if pair not in waits or waits[pair] < e.wait:
                    waits[pair] = e.wait
        before: list[list[tuple[int, float]]] = [[] for _ in self.tasks]
        after: list[list[tuple[int, float]]] = [[] for _ in self.tasks]
        for (s, t), wait in waits.items():
            before[t].append((s, wait))
            after[s].append((t, wait))
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)
        object.__setattr__(self, "carried", carried)
        object.__setattr__(self, "topological", list(_topological(before, after)))
        object.__setattr__(self, "ends", [t.end for t in self.tasks])

    def __len__(self) -> int:
        return len(self.tasks)

    def reversed(self) -> Problem:
        """The problem read from its end: a schedule of it, mirrored, is one of this problem.

        Dispatch is left out: from the end nobody knows when a task was dispatched.
        """
        spans = [max([0.0, *(e for _, _, e in t.pipes)]) for t in self.tasks]
        tasks = [
            Task(
                tuple((p, span - end, span - begin) for p, begin, end in t.pipes),
                span + t.release,
                release=max(0.0, t.latency - span),
            )
            for t, span in zip(self.tasks, spans, strict=True)
        ]
        edges = [
            Edge(e.target, e.source, e.wait + spans[e.target] - spans[e.source], e.distance)
            for e in self.edges
        ]
        return Problem(tuple(tasks), tuple(edges))


def _topological(
    before: Sequence[Sequence[tuple[int, float]]], after: Sequence[Sequence[tuple[int, float]]]
) -> Iterator[int]:
    """Tasks so that edges lead forward, the given order kept where it does not matter."""
    waiting = [len(b) for b in before]
    ready = [j for j, n in enumerate(waiting) if not n]
    while ready:
        j = heapq.heappop(ready)
        yield j
        for t, _ in after[j]:
            waiting[t] -= 1
            if not waiting[t]:
                heapq.heappush(ready, t)


@dataclass(frozen=True, slots=True)
class Run:
    """An execution: when each task started, per iteration, when each pipe was let go, and the end of it all."""

    starts: list[list[float]]
    free: dict[str, float]
    end: float


def replay(problem: Problem, order: Sequence[int], iterations: int = 1) -> Run:
    """Execute the tasks ``iterations`` times in the given order."""
    tasks, before, ends = problem.tasks, problem.before, problem.ends
    carried = problem.carried if iterations > 1 else None
    free: dict[str, float] = {}
    starts: list[list[float]] = []
    dispatch = end = 0.0
    for v in range(iterations):
        now = [0.0] * len(tasks)
        starts.append(now)
        for j in order:
            task = tasks[j]
            start = max(dispatch, task.release)
            for p, begin, _ in task.pipes:
                if (at := free.get(p, 0.0) - begin) > start:
                    start = at
            for i, wait in before[j]:
                if (at := now[i] + wait) > start:
                    start = at
            if carried:
                for i, distance, wait in carried[j]:
                    if distance <= v and (at := starts[v - distance][i] + wait) > start:
                        start = at
            for p, _, release in task.pipes:
                free[p] = start + release
            now[j] = start
            dispatch = (start if task.holds else dispatch) + task.dispatch
            if (at := start + ends[j]) > end:
                end = at
    return Run(starts, free, end)


def makespan(problem: Problem, order: Sequence[int]) -> float:
    """How long one iteration takes in this order."""
    return replay(problem, order).end


def duration(problem: Problem, order: Sequence[int], iterations: int) -> float:
    """How long all iterations take, each in this order; many are taken to go on like the first few."""
    run = replay(problem, order, min(iterations, SETTLED))
    if iterations <= SETTLED:
        return run.end
    return run.end + (iterations - SETTLED) * _step(problem, order, run.end)


def rate(problem: Problem, order: Sequence[int]) -> float:
    """Time from one iteration to the next once a few have passed."""
    return _step(problem, order, replay(problem, order, SETTLED).end)


def _step(problem: Problem, order: Sequence[int], settled: float) -> float:
    return (settled - replay(problem, order, SETTLED // 2).end) / (SETTLED - SETTLED // 2)


def heights(problem: Problem) -> list[float]:
    """Per task the longest path from its start to the end, pipes taken to be free."""
    found = list(problem.ends)
    for j in reversed(problem.topological):
        for t, wait in problem.after[j]:
            if (at := found[t] + wait) > found[j]:
                found[j] = at
    return found


def depths(problem: Problem) -> list[float]:
    """Per task the earliest start that dependences alone allow."""
    found = [t.release for t in problem.tasks]
    for j in problem.topological:
        for t, wait in problem.after[j]:
            if (at := found[j] + wait) > found[t]:
                found[t] = at
    return found


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no order beats: the longest path, and per pipe its work between the least head and tail."""

    critical: float
    pipes: dict[str, float]

    @property
    def busiest(self) -> str:
        """The pipe with the largest bound; "" if there is none."""
        return max(self.pipes, key=lambda p: self.pipes[p], default="")

    @property
    def least(self) -> float:
        return max([self.critical, *self.pipes.values()])


def bounds(problem: Problem) -> Bounds:
    """Lower bounds of the makespan."""
    early, late = depths(problem), heights(problem)
    critical = max((a + b for a, b in zip(early, late, strict=True)), default=0.0)
    parts: dict[str, list[tuple[float, float, float]]] = {}
    for j, task in enumerate(problem.tasks):
        for p, begin, end in task.pipes:
            parts.setdefault(p, []).append((early[j] + begin, end - begin, late[j] - end))
    return Bounds(critical, {p: one_pipe(work) for p, work in parts.items()})


def one_pipe(work: Iterable[tuple[float, float, float]]) -> float:
    """Bound of one pipe that runs parts (earliest start, length, least time after): the best that parts
    which may be interrupted can do, longest tail first (Jackson).
    """
    pending = sorted(work)
    ready: list[list[float]] = []  # minus the tail, what is left to do
    now = end = 0.0
    n = 0
    while n < len(pending) or ready:
        if not ready:
            now = max(now, pending[n][0])
        while n < len(pending) and pending[n][0] <= now:
            heapq.heappush(ready, [-pending[n][2], pending[n][1]])
            n += 1
        tail, left = ready[0]
        until = pending[n][0] if n < len(pending) else now + left
        if now + left > until:
            ready[0][1] = left - (until - now)
            now = until
            continue
        now += left
        heapq.heappop(ready)
        end = max(end, now - tail)
    return end
