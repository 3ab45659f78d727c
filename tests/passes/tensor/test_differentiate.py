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
    at,
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


def test_what_a_select_leaves_out_is_not_multiplied_by_0() -> None:
    f = written(
        "kernel f(x: T[N]) -> (y: T[N]) { y[i] = select(x[i] > 0, log(x[i]) * sqrt(x[i]), x[i]) }", N=3
    )
    x = np.array([0.0, -2.0, 4.0])
    found = at(f, ["x"], {"x": x})
    seeds = found.seeds["d_y"]
    np.testing.assert_allclose(found.gradients["x"], seeds * [1, 1, np.log(4.0) / 4 + 0.5])


def test_terms_outside_do_not_exist() -> None:
    """Infinite weights reach the elements that they were multiplied by, and no others."""
    f = shipped("conv2d", {"N": 1, "C": 1, "CG": 1, "K": 1, "H": 4, "W": 4, "pad": 1})
    arrays = random_arrays(f, 3)
    arrays["w"][0, 0, 0, 0] = np.inf
    found = at(f, ["x"], arrays).gradients["x"][0, 0]
    wanted = np.ones((4, 4), bool)
    wanted[3, :] = wanted[:, 3] = False  # the last row and column never meet the first tap
    assert (~np.isfinite(found) == wanted).all()


@pytest.mark.parametrize("size", [1, 2, 40])
def test_batch_norm_at_a_large_mean(size: int) -> None:
    """Against the formula on deviations, which has no mean; no gradient for one element per channel."""
    sizes = {"N": size, "C": 3, "H": 1, "W": 1}
    f = widened(shipped("batch_norm_train", sizes))
    arrays = random_arrays(f, 4)
    arrays["x"] = 1e4 + np.round(arrays["x"] * 64) / 64  # deviations without a rounding error
    found = at(f, ["x", "gamma"], arrays)
    dy, gamma = found.seeds["d_y"], arrays["gamma"][:, None, None]
    apart = arrays["x"] - 1e4
    apart = apart - apart.mean(0)
    scale = 1 / np.sqrt((apart * apart).mean(0) + np.float32(1e-5))
    hat = apart * scale
    wanted = gamma * scale * (dy - dy.mean(0) - hat * (dy * hat).mean(0))
    np.testing.assert_allclose(found.gradients["x"], wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.gradients["gamma"], (dy * hat).sum((0, 2, 3)), rtol=1e-6, atol=1e-9)


PREPARED = """func v1 prepared {
  arg x: f32[4] input
  arg w: f32[4] param
  op s: f32[1] sum accumulate f32 prepare {
    piece reduce i<4 at 0 = mul(w[i], w[i])
  }
  op y: f32[4] {
    piece i<4 at i = mul(x[i], s[0])
  }
  return y
}
"""


def test_what_was_prepared_can_be_saved() -> None:
    gradient = differentiate(parse_function(PREPARED, ""), ["x", "w"])
    verify(gradient.forward)
    assert gradient.saved == ("x", "w", "s")


def test_a_diagonal_is_not_the_whole_matrix() -> None:
    (op,) = backward("kernel f(x: T[N, N]) -> (y: T[N]) { y[i] = x[i, i] }", N=3)
    assert op.fill == 0.0
    f = written("kernel f(x: T[N, N]) -> (y: T[N, N]) { y[i, j] = x[i, i] * x[i, j] }", N=3)
    assert_matches_differences(f, random_arrays(f, 1))
