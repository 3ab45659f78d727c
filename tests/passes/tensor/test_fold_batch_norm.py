"""Folding keeps to the source's bound on data made to break a folded form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc import machine
from opc.pipeline import Context
from opc.tensor.bound import check
from opc.tensor.interpret import evaluate, oracle
from opc.tensor.ir import Function
from opc.tensor.text import parse_function
from passes.tensor.fold_batch_norm import FoldBatchNorm

CONTEXT = Context(machine.load("avx2"))
TEXT = """func v1 conv_bn {{
  arg x: {t}[1,{c},1,4] input
  arg w: {t}[3,{c},1,1] param
  arg gamma: f32[3] param
  arg beta: f32[3] param
  arg mean: f32[3] param
  arg var: f32[3] param
  op a: {t}[1,3,1,4] sum accumulate f32 {{
    piece n<1, k<3, p<1, q<4 reduce c<{c} at n, k, p, q = mul(x[n, c, p, q], w[k, c, 0, 0])
  }}
  op y: {t}[1,3,1,4] {{
    piece n<1, k<3, p<1, q<4 at n, k, p, q = max({norm}, 0)
  }}
  return y
}}
"""
CENTRED = "sub(a[n, k, p, q], mean[k])"
NORMS = (
    f"add(mul(mul({CENTRED}, rsqrt(add(var[k], 1e-05))), gamma[k]), beta[k])",
    f"add(mul(gamma[k], div({CENTRED}, sqrt(add(var[k], 1e-05)))), beta[k])",
    f"add(div({CENTRED}, mul(sqrt(add(var[k], 1e-05)), gamma[k])), beta[k])",
    f"add(mul(mul({CENTRED}, gamma[k]), rsqrt(add(var[k], 1e-05))), beta[k])",
    f"add(div(mul({CENTRED}, rsqrt(add(var[k], 1e-05))), gamma[k]), beta[k])",
)
CENTRES = st.sampled_from([0.0, 1.0, 100.0, -576.0, 1e4, 1e6])


def fold(f: Function) -> Function:
    result: Function = FoldBatchNorm().run(f, CONTEXT)
    return result


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["f32", "f16"]),
    channels=st.sampled_from([1, 2, 9, 64]),
    centre=CENTRES,
    spread=st.sampled_from([0.0, 1e-3, 1.0]),
    offset=st.sampled_from([0.0, 1e-3, 1.0]),
    var=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e6]),
    gamma=st.sampled_from([0.0, -1.0, 1e-6, 0.7, 316.0]),
    beta=st.sampled_from([0.0, 1.0, -0.3, 1e4]),
    seed=st.integers(0, 1000),
)
def test_cancellation_stays_in_bound(
    norm: str, dtype: str, channels: int, centre: float, seed: int, **p: float
) -> None:
    f = parse_function(TEXT.format(t=dtype, c=channels, norm=norm))
    random = np.random.default_rng(seed)

    def near(value: float, spread: float, *shape: int) -> Any:
        return value + spread * random.standard_normal(shape)

    arrays = {
        # Weights near 1 make every sum come out near the mean.
        "x": near(centre / channels, p["spread"], 1, channels, 1, 4),
        "w": near(1.0, p["spread"] * 1e-3, 3, channels, 1, 1),
        "gamma": near(p["gamma"], 0.01 * abs(p["gamma"]), 3),
        "beta": near(p["beta"], p["offset"], 3),
        "mean": near(centre, p["offset"], 3),
        "var": np.abs(near(p["var"], 0.1 * p["var"], 3)),
    }
    with np.errstate(over="ignore"):
        arrays = {a.tensor.name: arrays[a.tensor.name].astype(a.tensor.dtype.numpy) for a in f.args}
    expected = oracle(f, arrays)["y"]
    found = evaluate(fold(f), arrays, np.float32, quantise=True)["y"]
    assert check(found, expected).ok, str(check(found, expected))


def test_why_the_shift_is_not_folded() -> None:
    """The counterexample of the docstring: a sum that equals the mean, and a large scale."""
    f = parse_function(TEXT.format(t="f32", c=1, norm=NORMS[0]))
    one = np.ones(3, np.float32)
    arrays = {"x": np.full((1, 1, 1, 4), 100, np.float32), "w": np.ones((3, 1, 1, 1), np.float32)}
    arrays |= {"gamma": 0.9 * one, "beta": 0.1 * one, "mean": 100 * one, "var": 0 * one}
    expected = oracle(f, arrays)["y"]
    scale = (np.float32(1) / np.sqrt(np.float32(1e-5))) * arrays["gamma"]
    shifted = np.float32(100) * scale + (arrays["beta"] - arrays["mean"] * scale)
    assert np.abs(shifted - 0.1).max() > 1000 * expected.bound.max()
    assert check(evaluate(fold(f), arrays, np.float32, quantise=True)["y"], expected).ok


def test_exact_products_are_not_reassociated() -> None:
    """(3 * 5) * 0.1 rounds once, 3 * (5 * 0.1) may round twice: only a factor that is never exact moves."""
    f = parse_function(
        "func v1 f {\n  arg x: f32[4,3] input\n  arg p: f32[3] param\n  arg q: f32[3] param\n"
        "  op y: f32[4,3] {\n    piece i<4, k<3 at i, k = mul(mul(x[i, k], p[k]), q[k])\n  }\n  return y\n}\n"
    )
    assert fold(f) is f


def test_every_normalisation_ends_with_one_product() -> None:
    for norm in NORMS:
        run = fold(parse_function(TEXT.format(t="f32", c=4, norm=norm))).ops[-1]
        products = str(run.pieces[0].body).count("fn='mul'") + str(run.pieces[0].body).count("fn='div'")
        assert products == (2 if norm is NORMS[3] else 1)
