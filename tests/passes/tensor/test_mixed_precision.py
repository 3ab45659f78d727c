"""The policy of mixed precision: which kind an operation is, and what its tensors are stored as."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from opc import data
from opc.dtypes import DType
from opc.errors import PassError
from opc.tensor.interpret import evaluate, oracle
from opc.tensor.ir import reads
from passes.tensor._contraction import classify_contraction
from passes.tensor.differentiate import differentiate
from passes.tensor.mixed_precision import POLICY, kind_of, mixed
from tests.passes.tensor.gradients import differentiable, shipped, written

KINDS = {
    "y[i, j] = sum[k](a[i, k] * b[j, k])": "product",
    "y[i, j] = sum[k](f32(a[k, i]) * a[k, j])": "product",
    "y[i, 0] = sum[k](a[i, k] * b[0, k])": "product",
    "y[i, 0] = sum[k](a[i, k] * b[i, k])": "statistic",
    "y[i, 0] = sum[k](a[i, k] * a[i, k])": "statistic",
    "y[i, 0] = sum[k](a[i, k] * b[0, 0])": "statistic",
    "y[i, 0] = sum[k](a[i, k] * b[0, k] * 2)": "statistic",
    "y[i, 0] = sum[k](abs(a[i, k]) * b[0, k])": "statistic",
    "y[i, 0] = sum[k](exp(a[i, k]) + b[0, k])": "amplifier",
    "y[i, j] = log(a[i, j]) for i < M, j < N": "amplifier",
    "y[i, 0] = max[k](a[i, k])": "choice",
    "y[i, j] = a[i, j] / (1 + b[i, j])": "elementwise",
}


@pytest.mark.parametrize("clause", KINDS)
def test_kinds(clause: str) -> None:
    shape = "M, 1" if "y[i, 0]" in clause else "M, N"
    text = f"kernel f(a: T[M, N], b: T[M, N]) -> (y: T[{shape}]) {{ example M = 4, N = 4  {clause} }}"
    function = written(text, "f32")
    assert kind_of(function.ops[-1], function) == KINDS[clause]


def test_the_table_of_the_documentation() -> None:
    rows = re.findall(r"^\| (\w+) \| (.*) \| (\S+) \| (\S+) \|$", Path("docs/training.md").read_text(), re.M)
    assert dict(POLICY).items() <= {name: tuple(rest) for name, *rest in rows}.items()


@pytest.mark.parametrize("low", [DType.BF16, DType.F16])
@pytest.mark.parametrize("path", sorted(Path("kernels_dsl").glob("*.k")), ids=lambda p: p.stem)
def test_every_shipped_kernel(path: Path, low: DType) -> None:
    before = shipped(path.stem, {}, "f32")
    after = mixed(before, low)
    assert (after.args, after.results) == (before.args, before.results)
    found, tensors = after.tensors(), before.tensors()
    assert all(found[name].dtype is tensors[name].dtype for name in before.results)
    kinds = {op.name: kind_of(op, before) for op in before.ops}
    assert (after is before) == ("product" not in kinds.values())
    for op in after.ops:
        if kinds.get(op.name) in ("statistic", "amplifier"):
            assert all(t.dtype is not low for t in op.outputs)
        assert op.monoid is None or op.outputs[0].dtype is not low or op.accumulate is DType.F32
    arrays = data.arguments(before)
    exact, bounds = evaluate(before, arrays), oracle(after, arrays)
    for name in before.results:
        assert (np.abs(bounds[name].value - exact[name]) <= bounds[name].bound).all()


@pytest.mark.parametrize(
    "name", ["conv_bn_relu_train", "linear_bias_relu", "attention_scores", "bn_relu_conv"]
)
def test_gradients(name: str) -> None:
    function = mixed(shipped(name, {}, "f32"), DType.BF16)
    gradient = differentiate(function, differentiable(function))
    backward, tensors = gradient.backward, gradient.backward.tensors()
    assert all(tensors[r].dtype is DType.F32 for r in backward.results)
    found = [(op, classify_contraction(op, backward)) for op in backward.ops]
    products = [op for op, c in found if c is not None and c.m and c.n]
    assert products
    for op in products:
        assert all(tensors[r.tensor].dtype is DType.BF16 for r in reads(op))
        assert op.accumulate is DType.F32


def test_the_gradient_of_weights_is_not_rounded() -> None:
    function = mixed(shipped("linear", {}, "f32"), DType.BF16)
    backward = differentiate(function, ["w"]).backward
    rounded = [op for op in backward.ops if any(t.dtype is DType.BF16 for t in op.outputs)]
    assert {op.name for op in rounded} == {"x_bf16", "d_a"}


def test_a_narrow_kernel_is_refused() -> None:
    with pytest.raises(PassError) as error:
        mixed(shipped("linear", {}, "bf16"), DType.BF16)
    assert error.value.code == "E0714"
