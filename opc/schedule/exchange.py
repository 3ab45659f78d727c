"""Improving an order by exchanging tasks that stand in each other's way on the critical path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from opc.schedule.problem import SETTLED, Problem, bounds, duration, replay

EFFORT = 150_000  # tasks replayed while improving
LEAST = 100  # orders worth starting for
TENURE = 8  # moves for which an exchange is not undone
STALE = 60  # moves without progress after which the search ends


@dataclass(frozen=True, slots=True)
class Found:
    """An order and what it costs."""

    cost: float
    order: list[int]


class Search:
    """The best order of ``iterations`` iterations seen so far."""

    def __init__(self, problem: Problem, iterations: int = 1) -> None:
        self.problem, self.iterations = problem, iterations
        self.least = bounds(problem).least if iterations == 1 else 0.0
        self.best = Found(self.cost(problem.topological), problem.topological)

    def cost(self, order: Sequence[int]) -> float:
        """What an order costs."""
        return duration(self.problem, order, self.iterations)

    @property
    def done(self) -> bool:
        """Whether nothing better can exist."""
        return self.best.cost <= self.least * (1 + 1e-9)

    def offer(self, order: Sequence[int]) -> bool:
        """Whether ``order`` is better than all before it; it is kept then."""
        cost = self.cost(order)
        if cost >= self.best.cost * (1 - 1e-9):
            return False
        self.best = Found(cost, list(order))
        return True


def improve(search: Search) -> None:
    """Tabu search from the best order: of all exchanges on the critical path the best one is made, even if it
    costs something, and is not undone for a while.
    """
    problem = search.problem
    budget = EFFORT // (len(problem) * min(search.iterations, SETTLED))
    if budget < LEAST:
        return
    order = list(search.best.order)
    forbidden: dict[tuple[int, int], int] = {}
    stale = step = 0
    while budget > 0 and stale < STALE and not search.done:
        step += 1
        best: tuple[float, list[int], tuple[int, int]] | None = None
        for first, second in exchanges(problem, order, min(search.iterations, SETTLED)):
            if budget <= 0:
                break
            budget -= 1  # one that is not possible takes as long to find out as one that is takes to replay
            moved = exchanged(problem, order, first, second)
            if moved is None:
                continue
            cost = search.cost(moved)
            held = forbidden.get((first, second), 0) > step and cost >= search.best.cost
            if not held and (best is None or cost < best[0]):
                best = cost, moved, (first, second)
        if best is None:
            return
        _, order, (first, second) = best
        forbidden[second, first] = step + TENURE
        stale = 0 if search.offer(order) else stale + 1


def exchanges(problem: Problem, order: Sequence[int], iterations: int) -> list[tuple[int, int]]:
    """Pairs (first, second) such that the path that takes longest may get shorter if second goes before first:
    both on one pipe, in a row of tasks that only the pipe keeps apart, and one of them at an end of the row.
    """
    found: dict[tuple[int, int], None] = {}
    for row in _rows(problem, order, iterations):
        for n in range(1, len(row)):
            found[row[0], row[n]] = None
            found[row[n - 1], row[-1]] = None
    return list(found)


def _rows(problem: Problem, order: Sequence[int], iterations: int) -> Iterator[list[int]]:
    """The rows of the critical path: tasks of one iteration that follow each other on a pipe without a gap."""
    path = critical_path(problem, order, iterations)
    row = [path[0][1]]
    for (v, i), (w, j) in pairwise(path):
        shared = {p for p, _, _ in problem.tasks[i].pipes} & {p for p, _, _ in problem.tasks[j].pipes}
        if v == w and shared:
            row.append(j)
            continue
        if len(row) > 1:
            yield row
        row = [j]
    if len(row) > 1:
        yield row


def critical_path(problem: Problem, order: Sequence[int], iterations: int) -> list[tuple[int, int]]:
    """(iteration, task) of a chain of tasks, each of which starts when the one before lets it, up to the end."""
    run = replay(problem, order, iterations)
    tasks = problem.tasks
    last: dict[str, tuple[int, int]] = {}
    behind: dict[tuple[int, int], list[tuple[int, int]]] = {}
    previous: tuple[int, int] | None = None
    for v in range(iterations):
        for j in order:
            behind[v, j] = [last[p] for p, _, _ in tasks[j].pipes if p in last]
            if previous is not None:
                behind[v, j].append(previous)
            last.update((p, (v, j)) for p, _, _ in tasks[j].pipes)
            previous = (v, j) if tasks[j].holds else previous
    node = max(behind, key=lambda at: (run.starts[at[0]][at[1]] + problem.ends[at[1]], -at[0], -at[1]))
    path = [node]
    while True:
        v, j = node
        start = run.starts[v][j] - 1e-6
        options = [((v, i), run.starts[v][i] + wait) for i, wait in problem.before[j]]
        options += [((v - d, i), run.starts[v - d][i] + wait) for i, d, wait in problem.carried[j] if d <= v]
        options += [(other, _lets(problem, other, node, run.starts)) for other in behind[node]]
        tight = [at for at, when in options if when >= start > 0]
        if not tight:
            return path[::-1]
        node = tight[0]
        path.append(node)


def _lets(
    problem: Problem, first: tuple[int, int], second: tuple[int, int], starts: Sequence[Sequence[float]]
) -> float:
    """When the pipes and the dispatcher let ``second`` start after ``first``."""
    one, other = problem.tasks[first[1]], problem.tasks[second[1]]
    releases = {p: e for p, _, e in one.pipes}
    waits = [releases[p] - begin for p, begin, _ in other.pipes if p in releases]
    return starts[first[0]][first[1]] + max([*waits, one.dispatch if one.holds else 0.0])


def exchanged(problem: Problem, order: Sequence[int], first: int, second: int) -> list[int] | None:
    """The order with ``second``, and what it needs, moved before ``first``; None if it needs ``first``."""
    low, high = order.index(first), order.index(second)
    needed = {second}
    for j in reversed(order[low:high]):
        if any(t in needed for t, _ in problem.after[j]):
            needed.add(j)
    if first in needed:
        return None
    part = order[low : high + 1]
    ahead = [j for j in part if j in needed]
    return [*order[:low], *ahead, *(j for j in part if j not in needed), *order[high + 1 :]]
