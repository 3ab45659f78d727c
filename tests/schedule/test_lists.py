"""Orders keep every dependence, are never worse than the source's, and near the best there is."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings

from benchmarks.graphs import graph
from opc.schedule.exchange import critical_path, exchanges
from opc.schedule.lists import LOOK, list_order, schedule
from opc.schedule.problem import Edge, Problem, Task, bounds, duration, heights, makespan, one_pipe, replay
from tests.schedule.problems import keeps_edges, orders, problems


@settings(max_examples=60, deadline=None)
@given(problems(12))
def test_every_schedule_is_legal_and_within_its_bounds(problem: Problem) -> None:
    found = schedule(problem)
    assert keeps_edges(problem, found.order)
    assert found.cost == makespan(problem, found.order) <= makespan(problem, range(len(problem)))
    assert found.cost >= bounds(problem).least - 1e-9
    assert schedule(problem) == found
    for look in (1, LOOK):
        assert keeps_edges(problem, list_order(problem, heights(problem), look))


@settings(max_examples=40, deadline=None)
@given(problems(6))
def test_small_problems_against_every_order(problem: Problem) -> None:
    best = min(makespan(problem, order) for order in orders(problem))
    assert bounds(problem).least <= best + 1e-9
    assert best - 1e-9 <= schedule(problem).cost <= 1.25 * best


def test_most_small_problems_are_solved() -> None:
    """Eight tasks: of twenty graphs at least eighteen have no better order."""
    solved = 0
    for seed in range(20):
        _, problem = graph(seed, 8, 8)
        best = min(makespan(problem, order) for order in islice(orders(problem), 4000))
        solved += schedule(problem).cost <= best + 1e-9
    assert solved >= 18


@settings(max_examples=40, deadline=None)
@given(problems(8, carried=True))
def test_loops_are_never_worse_than_in_source_order(problem: Problem) -> None:
    found = schedule(problem, 20)
    assert keeps_edges(problem, found.order)
    assert found.cost == duration(problem, found.order, 20) <= duration(problem, range(len(problem)), 20)


@settings(max_examples=40, deadline=None)
@given(problems(8, carried=True))
def test_replay_keeps_pipes_edges_and_dispatch(problem: Problem) -> None:
    run = replay(problem, problem.topological, 3)
    for v, now in enumerate(run.starts):
        for e in problem.edges:
            if e.distance <= v:
                assert now[e.target] >= run.starts[v - e.distance][e.source] + e.wait
    free: dict[str, float] = {}
    dispatch = 0.0
    for now in run.starts:
        for j in problem.topological:
            task = problem.tasks[j]
            assert now[j] >= dispatch
            dispatch = (now[j] if task.holds else dispatch) + task.dispatch
            for p, begin, end in task.pipes:
                assert now[j] + begin >= free.get(p, 0.0)
                free[p] = now[j] + end


@settings(max_examples=40, deadline=None)
@given(problems(10))
def test_reversing_twice_changes_nothing_but_dispatch(problem: Problem) -> None:
    again = problem.reversed().reversed()
    plain = Problem(tuple(Task(t.pipes, t.latency) for t in problem.tasks), problem.edges)
    order = problem.topological
    assert abs(makespan(again, order) - makespan(plain, order)) < 1e-9


@settings(max_examples=40, deadline=None)
@given(problems(10))
def test_a_critical_path_has_no_gap(problem: Problem) -> None:
    run = replay(problem, problem.topological)
    path = critical_path(problem, problem.topological, 1)
    last = path[-1][1]
    assert run.starts[0][last] + problem.ends[last] == run.end
    for first, second in exchanges(problem, problem.topological, 1):
        assert problem.topological.index(first) < problem.topological.index(second)


def test_bound_of_one_pipe() -> None:
    # The first part waits until 4, the others fill the time before it; the one with the longest tail ends last.
    assert one_pipe([(4, 2, 0), (0, 3, 0)]) == 6
    assert one_pipe([(0, 3, 10), (0, 3, 0)]) == 13
    assert one_pipe([(0, 4, 1), (2, 4, 7)]) == 13
    assert one_pipe([]) == 0


def test_a_filler_goes_into_the_gap_before_a_long_path() -> None:
    load, work, small, end = (Task(((p, 0.0, n),), n) for p, n in (("A", 9), ("B", 9), ("B", 8), ("C", 3)))
    problem = Problem((load, work, small, end), (Edge(0, 1, 9), Edge(1, 3, 9)))
    assert makespan(problem, [0, 1, 2, 3]) == 26
    assert schedule(problem).cost == 21
