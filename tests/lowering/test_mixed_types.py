"""Products of two element types: of the wider one where the cube reads memory, said where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from opc import machine
from opc.dtypes import DType
from opc.errors import MachineError
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.text import parse_function
from tests.helpers import execute_function
from tests.lowering.test_lowering import lowered

TEXT = """func v1 product {{
  arg x: {a}[9,20] input
  arg w: {b}[20,17] {kind}
  op y: f32[9,17] sum accumulate f32 {{
    piece i<9, j<17 reduce k<20 at i, j = mul(x[i, k], w[k, j])
  }}
  return y
}}"""
PAIRS = [("i8", "bf16"), ("bf16", "i8"), ("f16", "f32"), ("bf16", "f16"), ("i8", "f16"), ("f16", "i8")]


@pytest.mark.parametrize("kind", ["input", "param"])
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("name", machine.names())
def test_product(name: str, a: str, b: str, kind: str) -> None:
    f = parse_function(TEXT.format(a=a, b=b, kind=kind))
    types = {DType(a), DType(b)}
    target = machine.load(name)
    if target.kind == "npu" or not types <= set(target.dtypes["cube"]):
        with pytest.raises(MachineError) as caught:
            lowered(f, name)
        assert caught.value.code == "E0620"
        return
    arrays = random_inputs(f, 1, "normal")
    found = execute_function(lowered(f, name), f, arrays)
    assert check(found["y"], oracle(f, arrays)["y"]).ok


CASTS = """func v1 casts {{
  arg x: {wide}[7,20] input
  arg z: {wide}[7,20] input
  op a: {wide}[7,20] {{
    piece i<7, j<20 at i, j = sub(x[i, j], {cast}(z[i, j]))
  }}
  op b: {wide}[7,20] {{
    piece i<7, j<20 at i, j = add(mul({cast}(z[i, j]), x[i, j]), max({cast}(z[i, j]), x[i, j]))
  }}
  op c: {wide}[7,20] {{
    piece i<7, j<20 at i, j = select(lt(x[i, j], {cast}(z[i, j])), x[i, j], {cast}(z[i, j]))
  }}
  op s: {wide}[7] sum accumulate {wide} {{
    piece i<7 reduce j<20 at i = mul(x[i, j], {cast}(z[i, j]))
  }}
  return a, b, c, s
}}"""


@pytest.mark.parametrize(
    ("wide", "cast"), [("f32", "bf16"), ("f32", "f16"), ("f64", "bf16"), ("f64", "f32"), ("i32", "i8")]
)
@pytest.mark.parametrize("name", machine.names())
def test_what_a_cast_gives_is_computed_with_in_the_wider_type(name: str, wide: str, cast: str) -> None:
    f = parse_function(CASTS.format(wide=wide, cast=cast))
    target = machine.load(name)
    if target.kind == "npu" and not {DType(wide), DType(cast)} <= set(target.dtypes["vector"]):
        with pytest.raises(MachineError, match="E0620"):
            lowered(f, name)
        return
    module = lowered(f, name)
    arrays = {n: a * 100 for n, a in random_inputs(f, 1, "normal").items()}  # beyond what i8 holds
    found = execute_function(module, f, arrays)
    expected = oracle(f, arrays)
    assert [str(check(found[n], expected[n])) for n in f.results if not check(found[n], expected[n]).ok] == []


LITERALS = """func v1 literals {
  arg x: f64[5] input
  op a: i32[5] {
    piece i<5 at i = add(i32(1.75:f64), add(i8(2.5), add(i8(300), i32(x[i]))))
  }
  op b: f64[5] {
    piece i<5 at i = add(x[i], add(bf16(0.1), f16(1e6)))
  }
  op c: i32[5] {
    piece i<5 at i = select(gt(i32(-1.5), i32(x[i])), i32(nan), i8(-inf))
  }
  return a, b, c
}"""


@pytest.mark.parametrize("name", ["avx2", "portable"])
def test_casts_of_literals_round(name: str) -> None:
    f = parse_function(LITERALS)
    arrays = {"x": np.array([-4.0, -1.5, -1.0, 0.0, 7.9])}
    found, expected = execute_function(lowered(f, name), f, arrays), oracle(f, arrays)
    assert [n for n in f.results if not check(found[n], expected[n]).ok] == []
    assert found["a"].tolist() == [1 + 2 + 127 - 4, 129, 129, 130, 137]
    assert np.isinf(found["b"]).all()
