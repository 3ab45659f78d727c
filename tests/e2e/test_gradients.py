"""Compiled gradients, given what the forward function saved, within the oracle's bound on random sizes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from opc import data, driver, machine
from opc.arrays import Array, empty
from opc.cpu import features
from opc.dtypes import DType
from opc.lang import kernel_info
from opc.tensor.bound import check
from opc.tensor.interpret import evaluate, oracle
from opc.tensor.ir import Function
from opc.tensor.verify import problems
from passes.tensor.differentiate import Gradient, differentiate
from tests.e2e.test_random_shapes import source
from tests.passes.tensor.gradients import differentiable, in_type
from tests.passes.tensor.operators import OPERATORS
from tests.passes.tensor.test_random_gradients import comprehensions

# ``make test-long`` sets OPC_EXAMPLES: more cases, new ones each time.
EXAMPLES = settings(
    max_examples=int(os.environ.get("OPC_EXAMPLES", "50")),
    deadline=None,
    derandomize="OPC_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
HOST = features.pick_machine()
TARGETS = st.sampled_from([(HOST, "f32"), (HOST, "bf16"), ("ascend910", "f16")])
QUICK = ("conv2d", "conv_bn_relu", "conv_bn_relu_train", "max_pool2d", "avg_pool2d", "matmul", "softmax")


@pytest.mark.parametrize("name", OPERATORS if "OPC_EXAMPLES" in os.environ else QUICK)
def test_backward(name: str) -> None:
    info = kernel_info(source(name), name, name)
    known = {*info.symbols, *(a.name for a in info.attributes)}

    @EXAMPLES
    @given(OPERATORS[name].sizes, TARGETS, st.sampled_from(["normal", "constant", "integer"]), st.booleans())
    def holds(sizes: dict[str, int], target: tuple[str, str], kind: str, last: bool) -> None:
        chosen = {n: v for n, v in sizes.items() if n in known}
        layout = "nhwc" if last else None
        f = driver.specialise(source(name), name, machine.load(target[0]), name, chosen, target[1], layout)
        assert_correct(f, target[0], kind)

    holds()


@EXAMPLES
@given(comprehensions(), TARGETS)
def test_any_index(f: Function, target: tuple[str, str]) -> None:
    if not problems(f):
        assert_correct(in_type(f, DType(target[1])), target[0], "normal")


def assert_correct(f: Function, target: str, kind: str) -> None:
    """Hold the compiled backward function to the oracle, on the same saved tensors; the same bits on two threads."""
    gradient = differentiate(f, differentiable(f))
    arrays = backward_arguments(f, gradient, kind)
    expected = oracle(gradient.backward, arrays)
    built = driver.build(gradient.backward, machine.load(target))
    if built.machine.kind == "npu":
        runs = [driver.npu_kernel(built).simulate(arrays)]
    else:
        runs = [driver.callable_kernel(built, threads).results(arrays) for threads in (1, 2)]
    for name in gradient.backward.results:
        report = check(runs[0][name], expected[name])
        assert report.ok, f"{f.name} on {target}, {kind} data: {name}: {report}"
        assert all(run[name].tobytes() == runs[0][name].tobytes() for run in runs)


def backward_arguments(f: Function, gradient: Gradient, kind: str) -> dict[str, Array]:
    """What a plain implementation of the forward function saves, and gradients of its results."""
    arrays = data.arguments(f, 1, kind)
    random = np.random.default_rng(2)
    known: dict[str, Any] = {**arrays, **evaluate(gradient.forward, arrays, np.float32, quantise=True)}
    found = {}
    for arg in gradient.backward.args:
        values = known.get(arg.tensor.name)
        array = empty(arg.tensor)
        array[...] = random.standard_normal(array.shape) if values is None else values
        found[arg.tensor.name] = array
    return found
