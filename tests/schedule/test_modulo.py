"""Modulo schedules keep pipes and dependences, and are compared with the shortest interval that exists."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from opc.schedule.interval import shortest
from opc.schedule.modulo import (
    Modulo,
    modulo_schedule,
    recurrence_bound,
    resource_bound,
    stretches,
)
from opc.schedule.optimal import on_grid
from opc.schedule.problem import Edge, Problem, Task, makespan
from tests.schedule.problems import problems


def assert_legal(problem: Problem, found: Modulo) -> None:
    """No pipe holds two tasks at once, whichever iterations they belong to, and every edge is kept."""
    interval = found.interval
    for e in problem.edges:
        assert found.times[e.target] + e.distance * interval >= found.times[e.source] + e.wait - 1e-6
    parts: dict[str, list[tuple[float, float]]] = {}
    for task, at in zip(problem.tasks, found.times, strict=True):
        for p, begin, end in stretches(task):
            if end > begin:
                parts.setdefault(p, []).append(((at + begin) % interval, end - begin))
    for placed in parts.values():
        for n, (a, length) in enumerate(placed):
            for b, other in placed[n + 1 :]:
                assert length <= (b - a) % interval + 1e-3
                assert other <= (a - b) % interval + 1e-3


@settings(max_examples=60, deadline=None)
@given(problems(8, carried=True))
def test_modulo_schedules_are_legal(problem: Problem) -> None:
    found = modulo_schedule(problem, 4 * makespan(problem, problem.topological))
    assert found is not None
    assert_legal(problem, found)
    assert found.interval >= max(resource_bound(problem)[0], recurrence_bound(problem)) * (1 - 1e-3)


@settings(max_examples=10, deadline=None)
@given(problems(5, loops=False, carried=True))
def test_the_shortest_interval(problem: Problem) -> None:
    pytest.importorskip("ortools")
    problem = on_grid(problem)
    known = modulo_schedule(problem, 4 * makespan(problem, problem.topological))
    assert known is not None
    found = shortest(problem, known, 20)
    assert_legal(problem, found.best)
    assert found.bound - 1 <= found.best.interval <= known.interval
    assert known.interval <= 1.3 * found.best.interval + 1


def test_bounds_of_a_loop() -> None:
    # Two tasks of pipe A; the second iteration of the first waits for the first of the second.
    one, two = (Task((("A", 0.0, length),), length + 5) for length in (4, 3))
    problem = Problem((one, two), (Edge(0, 1, 9), Edge(1, 0, 8, 1)))
    assert resource_bound(problem) == (7, "A")
    assert recurrence_bound(problem) == pytest.approx(17, rel=1e-3)
    apart = Problem((one, two), (Edge(0, 1, 9), Edge(1, 0, 8, 2)))
    assert recurrence_bound(apart) == pytest.approx(8.5, rel=1e-3)
    assert recurrence_bound(Problem((one, two), (Edge(0, 1, 9),))) == 0
