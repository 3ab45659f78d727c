"""Gradients against central differences in float64, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import kernels_dsl
from opc.errors import PassError
from opc.tensor.ir import Const, Op
from opc.tensor.text import parse_function
from opc.tensor.verify import verify
from passes.tensor.differentiate import differentiate
from tests.passes.tensor.gradients import (
    assert_matches_differences,
    differentiable,
    random_arrays,
    shipped,
    widened,
    written,
)

SMALL: dict[str, dict[str, int]] = {
    "conv_bn_relu": {"C": 3, "H": 6, "W": 5, "K": 4},
    "conv2d": {"stride": 2, "H": 9, "W": 8},
    "attention_scores": {"M": 3, "N": 4, "D": 5},
}


@pytest.mark.parametrize("name", kernels_dsl.names())
def test_shipped_kernels(name: str) -> None:
    f = widened(shipped(name, SMALL.get(name, {})))
    table, updated = f.tensors(), {a.tensor.name for a in f.args if a.kind == "inout"}
    starts = [r for r in f.results if table[r].dtype.is_float and r not in updated]
    if not differentiable(f) or not starts:
        with pytest.raises(PassError):
            differentiate(f, differentiable(f))
        return
    assert_matches_differences(f, random_arrays(f, seed=1))


SIMPLE = "kernel f(x: T[N], k: i32[N], inout m: T[N]) -> (y: T[N]) { y[i] = x[i] * m[i] m[i] = x[i] }"


@pytest.mark.parametrize(
    ("wrt", "code"),
    [(["z"], "E0710"), ([], "E0710"), (["x", "x"], "E0710"), (["k"], "E0711"), (["m"], "E0712")],
)
def test_refused_arguments(wrt: list[str], code: str) -> None:
    with pytest.raises(PassError) as error:
        differentiate(written(SIMPLE, N=4), wrt)
    assert error.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        "kernel f(x: T[N]) -> (y: i32[1]) { y[0] = argmax[i](x[i]) }",
        "kernel f(x: T[N], inout m: T[N]) -> () { m[i] = m[i] + x[i] }",
    ],
)
def test_no_result_to_start_from(text: str) -> None:
    with pytest.raises(PassError) as error:
        differentiate(written(text, N=4), ["x"])
    assert error.value.code == "E0713"


def backward(text: str, **sizes: int) -> list[Op]:
    """The ops of the gradient by x."""
    gradient = differentiate(written(text, "f32", **sizes), ["x"])
    verify(gradient.backward)
    return list(gradient.backward.ops)


def test_readers_of_different_elements_are_pieces_of_one_op() -> None:
    text = (
        "kernel f(x: T[N]) -> (y: T[M], z: T[M]) { let M = N // 2 y[i] = x[i] * 2 for i < M z[i] = x[M + i] }"
    )
    (op,) = backward(text, N=6)
    assert len(op.pieces) == 2
    assert op.fill is None


def test_no_gradient_is_zero() -> None:
    (op,) = backward("kernel f(x: T[N], a: T[N]) -> (y: T[N]) { y[i] = a[i] + f32(i32(x[i])) }", N=6)
    assert op.pieces[0].body == Const(0.0)


GUARDED = """func v1 guarded {
  arg x: f64[7] input
  op mean: f64[5], m2: f64[5] moments accumulate f64 {
    piece i<5 reduce r<4 at i guard i - r + 1 = x[i + r] else 0.5
  }
  op y: f64[5] {
    piece i<5 at i = mul(mean[i], exp(m2[i]))
  }
  return y
}
"""


def test_moments_of_as_many_terms_as_the_guards_leave() -> None:
    f = parse_function(GUARDED, "")
    assert_matches_differences(f, {"x": np.random.default_rng(0).standard_normal(7)})
