"""The choice among plans: they must fit, differ in code, and agree to the bit; contractions are combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

import opc
from opc.cache import folder
from opc.errors import MachineError, fail
from opc.tuning.choose import MODEL, Choice, choose

# The same values by different code.
TEXTS = {
    MODEL: "y[i] = x[i] * 2",
    "rows=1;": "y[i] = x[i] * 32 / 16",
    "rows=2;": "y[i] = x[i] * 4 / 2",
    ";rows=3": "y[i] = x[i] * 8 / 4",
    "rows=1;rows=3": "y[i] = x[i] * 16 / 8",
    "same": "y[i] = x[i] * 2",
    "wrong": "y[i] = x[i] * 2.0000002",
}
FIRST = (MODEL, "rows=1;", "rows=2;", ";rows=3")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder.VARIABLE, "off")


def make(plans: str) -> opc.Kernel:
    if plans == "huge":
        raise fail(MachineError, "E0630", "does not fit")
    return opc.compile(f"kernel k(x: T[N]) -> (y: T[N]) {{ {TEXTS[plans]} }}", N=64, threads=1)


def chosen(candidates: Sequence[str], speeds: Mapping[str, float]) -> tuple[Choice, list[list[str]]]:
    """The choice where candidates take the given times, and who was in each race."""
    races: list[list[str]] = []

    def race(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        races.append(list(calls))
        for call in calls.values():
            call()
        return {name: [speeds[name]] * 3 for name in calls}

    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    return choose(candidates, make, {"x": x}, lambda _: None, race), races


def test_one_candidate_needs_no_race() -> None:
    choice, races = chosen((MODEL,), {})
    assert (choice, races) == (Choice(MODEL), [])


def test_best_plans_of_several_contractions_are_combined() -> None:
    speeds = {MODEL: 1.0, "rows=1;": 0.8, "rows=2;": 0.9, ";rows=3": 0.7, "rows=1;rows=3": 0.6}
    choice, races = chosen(FIRST, speeds)
    assert choice.plans == "rows=1;rows=3"
    assert races == [list(FIRST), [MODEL, ";rows=3", "rows=1;rows=3"]]
    assert [t.plans for t in choice.timed] == [*FIRST, "rows=1;rows=3"]


def test_a_combination_may_lose() -> None:
    speeds = {MODEL: 1.0, "rows=1;": 0.8, "rows=2;": 0.9, ";rows=3": 0.7, "rows=1;rows=3": 0.75}
    assert chosen(FIRST, speeds)[0].plans == ";rows=3"


def test_small_gains_leave_the_model_alone() -> None:
    speeds = dict.fromkeys(FIRST, 0.995) | {MODEL: 1.0}
    assert chosen(FIRST, speeds)[0].plans == MODEL


def test_what_does_not_fit_or_is_the_same_is_not_timed() -> None:
    choice, races = chosen((MODEL, "huge", "same", "rows=1;"), {MODEL: 1.0, "rows=1;": 0.5})
    assert races == [[MODEL, "rows=1;"]]
    notes = {t.plans: t.note for t in choice.timed}
    assert notes["huge"] == "does not fit"
    assert notes["same"] == "the same code as the choice of the model"
    assert choice.plans == "rows=1;"


def test_other_bits_are_a_bug_and_keep_the_model() -> None:
    choice, _ = chosen((MODEL, "wrong", "rows=1;"), {MODEL: 1.0, "rows=1;": 0.5})
    assert choice.plans == MODEL
    (problem,) = choice.problems
    assert problem.code == "E1003"
    assert "'wrong'" in problem.message
    assert "report it" in problem.help
