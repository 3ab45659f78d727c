"""Under the licence a sum may start from what is added to it, and the bound counts that."""

from __future__ import annotations

import numpy as np

from opc.tensor.interpret import evaluate, oracle, oracle_under
from opc.tensor.licence import first_terms
from opc.tensor.text import parse_function, print_function

TEXT = """func v1 biased {
  arg x: f32[1,4096] input
  arg w: f32[4096,2] param
  arg b: f32[2] param
  op a: f32[1,2] sum accumulate f32 {
    piece m<1, n<2 reduce k<4096 at m, n = mul(x[m, k], w[k, n])
  }
  op y: f32[1,2] {
    piece m<1, n<2 at m, n = max(add(b[n], a[m, n]), 0)
  }
  return y
}
"""


def test_a_large_first_term_is_within_the_bound_of_the_licence_only() -> None:
    f = parse_function(TEXT, "biased")
    x, w = np.full((1, 4096), 0.3, np.float32), np.full((4096, 2), 0.7, np.float32)
    b = np.full(2, 4e5, np.float32)
    arrays = {"x": x, "w": w, "b": b}
    started = b.copy()
    for product in x[0] * w[:, 0]:
        started += product
    off = np.abs(started - evaluate(f, arrays)["y"][0]).max()
    assert oracle(f, arrays)["y"].bound.max() < off < oracle_under(f, f, arrays)["y"].bound.min()


def test_values_stay() -> None:
    f = parse_function(TEXT, "biased")
    rng = np.random.default_rng(0)
    arrays = {a.tensor.name: rng.normal(size=a.tensor.shape).astype(np.float32) for a in f.args}
    np.testing.assert_allclose(evaluate(first_terms(f), arrays)["y"], evaluate(f, arrays)["y"], rtol=1e-11)


def test_only_additions_to_sums_change() -> None:
    f = parse_function(TEXT.replace("add(b[n], a[m, n])", "sub(mul(a[m, n], 2.0), b[n])"), "other")
    assert print_function(first_terms(f)) == print_function(f)


OVERFLOW = """func v1 overflows {
  arg x: f32[4] input
  arg s: f32[] param
  op a: f32[4] {
    piece i<4 at i = mul(x[i], s[])
  }
  op y: f32[4] {
    piece i<4 at i = max(add(a[i], 1.0), 0.0)
  }
  return y
}
"""


def test_what_leaves_the_range_of_its_type_on_the_licensed_way_has_no_bound() -> None:
    source = parse_function(
        OVERFLOW.replace("mul(x[i], s[])", "x[i]").replace("add(a[i], 1.0)", "a[i]"), "source"
    )
    licensed = parse_function(
        OVERFLOW.replace("add(a[i], 1.0)", "div(a[i], s[])"), "licensed"
    )  # x * s / s, which overflows to an infinity of the wrong sign for ReLU to take away
    arrays = {"x": np.full(4, 1e30, np.float32), "s": np.float32(-1e20)}
    bounded = oracle_under(source, licensed, arrays)["y"]
    assert np.isinf(bounded.bound).all()
    assert np.isfinite(oracle_under(source, licensed, {**arrays, "s": np.float32(-2)})["y"].bound).all()
