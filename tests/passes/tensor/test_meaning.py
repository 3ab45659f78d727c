"""Every tensor pass keeps the meaning of any valid function: its result verifies, reads back, and computed in
its own types stays within the oracle's bound of the source.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from opc import machine
from opc.pipeline import Context
from opc.tensor.bound import check
from opc.tensor.inputs import KINDS, random_inputs
from opc.tensor.interpret import evaluate, oracle
from opc.tensor.ir import Function
from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import verify
from opc.tensor.views import viewed
from passes import load
from tests.passes.tensor.chains import chains
from tests.strategies.tensor import functions

CONTEXT = Context(machine.load("avx2"))
QUIET = settings(suppress_health_check=list(HealthCheck), deadline=None)


def run(name: str, f: Function, **options: Any) -> Function:
    """The function after a pass, checked for form."""
    result: Function = load(name)(**options).run(f, CONTEXT)
    note(print_function(result))
    verify(result)
    assert parse_function(print_function(result)) == result
    if name != "fuse":
        assert load(name)(**options).run(result, CONTEXT) == result, "a second run changes it again"
    return result


def assert_same(before: Function, after: Function, seed: int, kind: str) -> None:
    arrays = random_inputs(before, seed, kind)
    expected = oracle(before, arrays)
    moved = evaluate(after, viewed(arrays, before, after), np.float32, quantise=True)
    found = viewed(moved, after, before)
    source = evaluate(before, arrays, np.float32, quantise=True)
    for name in before.results:
        report = check(found[name], expected[name])
        assert report.ok or not check(source[name], expected[name]).ok, f"{name}: {report}"


@pytest.mark.parametrize("name", ["simplify", "cse", "dce", "fold-batch-norm", "collapse", "fuse"])
@settings(QUIET, max_examples=60)
@given(f=functions(), seed=st.integers(0, 99), kind=st.sampled_from(sorted(KINDS)))
def test_random_functions(name: str, f: Function, seed: int, kind: str) -> None:
    note(print_function(f))
    assert_same(f, run(name, f), seed, kind)


@pytest.mark.parametrize("name", ["simplify", "cse", "fold-batch-norm", "collapse", "fuse"])
@settings(QUIET, max_examples=40)
@given(f=chains(), seed=st.integers(0, 99), kind=st.sampled_from(sorted(KINDS)))
def test_fusable_functions(name: str, f: Function, seed: int, kind: str) -> None:
    note(print_function(f))
    assert_same(f, run(name, f), seed, kind)


@settings(QUIET, max_examples=40)
@given(f=st.one_of(functions(), chains()), seed=st.integers(0, 99), kind=st.sampled_from(sorted(KINDS)))
def test_all_together(f: Function, seed: int, kind: str) -> None:
    note(print_function(f))
    after = f
    for name in ("simplify", "cse", "fold-batch-norm", "dce", "collapse", "fuse"):
        after = load(name)().run(after, CONTEXT)
        verify(after)
    assert_same(f, after, seed, kind)
