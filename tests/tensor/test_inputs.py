"""Seeded argument arrays."""

from __future__ import annotations

import numpy as np
import pytest

from opc.tensor.inputs import KINDS, positives, random_inputs
from opc.tensor.text import parse_function


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_reproducible_and_of_their_dtype(kind: str) -> None:
    text = "func v1 f { arg x: bf16[5,3] input arg run.var: f16[7] param arg n: i8[4] input return }"
    f = parse_function(text)
    first, again, other = random_inputs(f, 1, kind), random_inputs(f, 1, kind), random_inputs(f, 2, kind)
    for arg in f.args:
        array = first[arg.tensor.name]
        assert array.dtype == arg.tensor.dtype.numpy
        np.testing.assert_array_equal(array.astype(float), again[arg.tensor.name].astype(float))
    assert any((first[n].astype(float) != other[n].astype(float)).any() for n in first)
    assert not (first["run.var"] <= 0).any()


def test_unknown_kinds_of_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="kind is one of"):
        random_inputs(parse_function("func v1 f { return }"), 0, "nice")


def test_what_a_root_or_divisor_needs_is_positive() -> None:
    text = """func v1 f {
  arg x: f32[4] input
  arg spread: f32[4] param
  arg total: f32[] param
  arg run.variance.0: f32[4] param
  arg variants: f32[4] param
  op y: f32[4] { piece i<4 at i = div(mul(sub(x[i], variants[i]), rsqrt(add(spread[i], 1e-05))), total[]) }
  return y
}
"""
    assert positives(parse_function(text)) == {"spread", "total", "run.variance.0"}
