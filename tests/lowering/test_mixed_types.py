"""Products of two element types: of the wider one where the cube reads memory, said where it cannot be."""

from __future__ import annotations

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
