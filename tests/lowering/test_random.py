"""Random functions lowered for every machine: the program means what the function means."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from opc import machine
from opc.errors import MachineError
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from tests.helpers import execute_function
from tests.lowering.test_lowering import lowered
from tests.strategies.tensor import arrays, functions


@pytest.mark.parametrize("name", machine.names())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(function=functions(), seed=st.integers(0, 99), kind=st.sampled_from(["normal", "integer", "constant"]))
def test_meaning(name: str, function: Function, seed: int, kind: str) -> None:
    try:
        module = lowered(function, name)
    except MachineError as error:
        # An element type or function that the machine lacks, or a slanted guard: said, not miscompiled.
        assume(error.code not in ("E0620", "E0622", "E0632"))
        raise
    values = arrays(function, seed, kind)
    results = execute_function(module, function, values)
    expected = oracle(function, values)
    for result in function.results:
        report = check(results[result], expected[result])
        assert report.ok, f"{result}: {report}"
