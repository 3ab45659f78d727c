"""Random functions compiled as users do it, machine code and listings, strict, licensed and in mixed precision."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from opc import data, driver, machine
from opc.cpu import features
from opc.dtypes import DType
from opc.errors import OpcError
from opc.numerics import FAST, STRICT
from opc.tensor.bound import check
from opc.tensor.ir import Function
from passes.tensor.mixed_precision import mixed
from tests.strategies.tensor import functions

# Longer than a vector and than two, and no multiple of them.
SIZE = 13
MACHINES = [n for n in machine.names() if not features.missing(machine.load(n))]
# What a machine lacks, guards over several dims at once, and functions without a product to make narrow.
REFUSED = ("E0620", "E0622", "E0632", "E0714")
EXAMPLES = settings(
    max_examples=int(os.environ.get("OPC_EXAMPLES", "30")),
    deadline=None,
    derandomize="OPC_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", MACHINES)
@EXAMPLES
@given(
    drawn=st.data(),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["normal", "integer", "constant", "special"]),
    numerics=st.sampled_from([FAST, STRICT]),
    low=st.sampled_from(["", "", "bf16", "f16"]),
)
def test_random_functions(
    name: str, drawn: st.DataObject, seed: int, kind: str, numerics: str, low: str
) -> None:
    target = machine.load(name)
    floats = tuple(t for t in target.dtypes["memory"] if t.is_float)
    function: Function = drawn.draw(functions(floats, size=SIZE))
    try:
        function = mixed(function, DType(low)) if low else function
        built = driver.build(function, target, numerics=numerics)
    except OpcError as error:
        assume(error.diagnostics[0].code not in REFUSED)
        raise
    arrays = data.arguments(function, seed, kind)
    with np.errstate(all="ignore"):
        expected = built.oracle(arrays)
        if target.kind == "npu":
            found = {**arrays, **driver.npu_kernel(built).simulate(arrays)}
        else:
            found = {**arrays, **driver.callable_kernel(built, 2).results(arrays)}
    for result in function.results:
        report = check(found[result], expected[result])
        assert report.ok, f"{name}, {numerics}, {kind} data, seed {seed}: {result}: {report}"
