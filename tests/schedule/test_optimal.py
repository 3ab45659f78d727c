"""The solver's optimum against every order of small problems, and its bound against the list schedule."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings

from benchmarks.graphs import SHAPES, graph
from opc.errors import RuntimeCallError
from opc.schedule import optimal
from opc.schedule.lists import schedule
from opc.schedule.problem import Problem, bounds, makespan
from tests.schedule.problems import keeps_edges, orders, problems


@settings(max_examples=15, deadline=None)
@given(problems(6))
def test_the_optimum_is_what_no_order_beats(problem: Problem) -> None:
    pytest.importorskip("ortools")
    problem = optimal.on_grid(problem)
    found = optimal.optimum(problem, 20, problem.topological)
    assert found.closed
    assert keeps_edges(problem, found.order)
    assert found.makespan == min(makespan(problem, order) for order in orders(problem))


def test_the_bound_is_between_the_plain_one_and_the_list_schedule() -> None:
    pytest.importorskip("ortools")
    _, problem = graph(22, 30, 40)
    listed = schedule(problem)
    found = optimal.optimum(problem, 2, listed.order)
    assert bounds(problem).least <= found.bound <= found.makespan <= listed.cost
    assert makespan(problem, found.order) == found.makespan


def test_without_the_solver_there_is_a_diagnostic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(RuntimeCallError) as failure:
        optimal.solver()
    assert failure.value.code == "E0932"
    assert "opc-compiler[optimal]" in str(failure.value)


def test_random_graphs_are_the_same_for_the_same_seed() -> None:
    names = {graph(seed)[0].split("/")[0] for seed in range(40)}
    assert names == set(SHAPES)
    assert graph(7) == graph(7)
    assert all(30 <= len(graph(seed)[1]) <= 300 for seed in range(20))
