"""The oracle against an independent scalar interpreter, on random functions and data of every kind."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opc.dtypes import DType
from opc.errors import IRError
from opc.tensor.bound import check
from opc.tensor.inputs import KINDS
from opc.tensor.interpret import evaluate, exact, oracle
from opc.tensor.ir import Function
from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import problems, verify
from tests.strategies.tensor import arrays, functions
from tests.tensor.reference import Machine

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
# The same examples on every run; raise max_examples and drop derandomize for a campaign.
campaign = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)


@campaign
@given(functions())
def test_random_functions_verify(f: Function) -> None:
    assert problems(f) == []


@campaign
@given(functions(), st.integers(0, 99), st.sampled_from(["normal", "integer", "constant", "special"]))
def test_values_are_those_of_the_definition(f: Function, seed: int, kind: str) -> None:
    data = arrays(f, seed, kind)
    found, expected = evaluate(f, data), Machine(wide=True).run(f, data)
    bounds = oracle(f, data)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Where the oracle says that rounding decides, float64 may decide otherwise as well.
        bound, undecided = bounds[name].bound, bounds[name].undecided is not None
        loose = np.isinf(bound) | (bound > 1e-3 * (1 + abs(value))) | undecided
        same = np.isclose(found[name].astype(float), value.astype(float), 1e-9, 1e-9, equal_nan=True)
        assert (same | loose).all(), name


@campaign
@given(functions(), st.integers(0, 99), st.sampled_from(sorted(KINDS)))
def test_bounds_hold_for_any_order_and_rounding(f: Function, seed: int, kind: str) -> None:
    data = arrays(f, seed, kind)
    bounds = oracle(f, data)
    for attempt in range(3):
        found = Machine(np.random.default_rng(attempt)).run(f, data)
        for name, value in found.items():
            report = check(value, bounds[name])
            assert report.ok, f"{name}: {report}"


@campaign
@given(functions(floats=(DType.F32,)), st.integers(0, 99))
def test_exact_means_bit_for_bit(f: Function, seed: int) -> None:
    data = arrays(f, seed, "integer")
    if not exact(f, data):
        return
    first = oracle(f, data)
    for attempt in range(2):
        found = Machine(np.random.default_rng(attempt)).run(f, data)
        for name, value in found.items():
            np.testing.assert_array_equal(value, first[name].value.astype(np.float64))


@campaign
@given(functions(), st.data())
def test_damaged_functions_are_reported_or_mean_something(f: Function, data: st.DataObject) -> None:
    """Swap tokens of the text: the verifier never falls over, and what it accepts can be evaluated."""
    tokens = re.findall(r"\s+|[\w.]+|\"(?:[^\"\\]|\\.)*\"|.", print_function(f))
    words = [i for i, t in enumerate(tokens) if re.fullmatch(r"[\w.]+|[-+*]", t)]
    for _ in range(data.draw(st.integers(1, 3))):
        i, j = data.draw(st.sampled_from(words)), data.draw(st.sampled_from(words))
        tokens[i] = tokens[j]
    assert _reported_or_evaluated("".join(tokens))


def _reported_or_evaluated(text: str) -> bool:
    try:
        damaged = parse_function(text)
        verify(damaged)
    except IRError as error:
        return all(re.fullmatch(r"E0[45]\d\d", d.code) for d in error.diagnostics)
    results = oracle(damaged, arrays(damaged, 0, "normal"))
    return all(b.value.shape == b.bound.shape for b in results.values())
