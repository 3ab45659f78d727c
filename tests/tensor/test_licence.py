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
