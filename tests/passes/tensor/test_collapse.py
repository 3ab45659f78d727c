"""What merges and what holds axes apart, on functions made of layouts that merge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import driver, machine
from opc.affine import Affine
from opc.arrays import physical
from opc.dtypes import DType
from opc.pipeline import Context
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Arg, Call, Dim, Function, Op, Piece, Read, Tensor
from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import verify
from opc.tensor.views import viewed
from passes import PIPELINES, load

AVX2 = Context(machine.load("avx2"))
NAMES = "abcd"


def collapsed(function: Function) -> Function:
    after: Function = load("collapse")().run(function, AVX2)
    verify(after)
    return after


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    return {name: t.shape for name, t in collapsed(parse_function(text)).tensors().items()}


@st.composite
def layouts(draw: Any) -> Function:
    """Sums and maps over one space of dims, each tensor over some of them and in an order of its own."""
    dims = [Dim(n, draw(st.integers(1, 4))) for n in NAMES[: draw(st.integers(2, 4))]]

    def tensor(name: str, over: list[Dim]) -> tuple[Tensor, tuple[Affine, ...]]:
        order = tuple(draw(st.permutations(range(len(over))))) if draw(st.booleans()) else None
        return Tensor(name, DType.F32, tuple(d.extent for d in over), order), tuple(
            Affine.var(d.name) for d in over
        )

    reduced = draw(st.integers(0, len(dims)))
    start = draw(st.integers(0, len(dims) - reduced))
    inner, outer = dims[start : start + reduced], dims[:start] + dims[start + reduced :]
    x, at_x = tensor("x", dims)
    w, at_w = tensor("w", [d for d in dims if draw(st.booleans())])
    y, at_y = tensor("y", outer)
    z, at_z = tensor("z", outer)
    piece = Piece(tuple(outer), at_y, Call("mul", (Read("x", at_x), Read("w", at_w))), tuple(inner))
    first = Op((y,), (piece,), "sum" if inner else None, accumulate=DType.F32 if inner else None)
    second = Op((z,), (Piece(tuple(outer), at_z, Call("neg", (Read("y", at_y),))),))
    return Function("f", (Arg(x), Arg(w, "param")), ("z",), (first, second))


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(0, 9))
def test_the_value_is_the_same_bit_for_bit(function: Function, seed: int) -> None:
    verify(function)
    after = collapsed(function)
    note(print_function(after))
    # Small integers: NumPy sums merged dimensions in another order, which must not matter.
    arrays = random_inputs(function, seed, "integer")
    expected = evaluate(function, arrays)["z"]
    found = viewed(evaluate(after, viewed(arrays, function, after)), after, function)["z"]
    np.testing.assert_array_equal(found, expected)
    table, shown = function.tensors(), after.tensors()
    for name, array in arrays.items():
        new = viewed(arrays, function, after)[name]
        assert physical(array, table[name]).tobytes() == physical(new, shown[name]).tobytes()


ELEMENTWISE = """func v1 f {{
  arg x: f32[2,3,4,5]{x} input
  op y: f32[2,3,4,5]{y} {{
    piece a<2, b<3, c<4, d<5 at a, b, c, d = {body}
  }}
  return y
}}
"""


@pytest.mark.parametrize(
    ("x", "y", "body", "wanted"),
    [
        ("", "", "neg(x[a, b, c, d])", (120,)),
        (" order 0,2,3,1", " order 0,2,3,1", "neg(x[a, b, c, d])", (120,)),
        ("", " order 0,2,3,1", "neg(x[a, b, c, d])", (2, 3, 20)),
        ("", "", "mul(x[a, b, c, d], f32(dim(c)))", (6, 4, 5)),
        ("", "", "add(x[a, b, c, d], x[a, 0, c, d])", (2, 3, 20)),
        ("", "", "x[a, b, -c + 3, d]", (6, 4, 5)),
        ("", "", "x[a, b, c - 1, d] else 0", (6, 20)),
    ],
)
def test_elementwise(x: str, y: str, body: str, wanted: tuple[int, ...]) -> None:
    assert shapes(ELEMENTWISE.format(x=x, y=y, body=body))["y"] == wanted


def test_reduced_axes_merge_in_the_order_of_terms_only() -> None:
    text = """func v1 f {{
  arg x: f32[2,3,4] input
  op y: i32[2] argmax {{
    piece a<2 reduce {reduce} at a = x[a, b, c]
  }}
  return y
}}
"""
    assert shapes(text.format(reduce="b<3, c<4"))["x"] == (2, 12)
    assert shapes(text.format(reduce="c<4, b<3"))["x"] == (2, 3, 4)


@pytest.mark.parametrize(
    ("layout", "rows", "columns"), [("nhwc", (6272, 64), (6272, 256)), ("nchw", (8, 64, 784), (8, 256, 784))]
)
def test_a_1x1_convolution_has_one_dimension_of_pixels(
    layout: str, rows: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    source = "kernels_dsl/conv_bn_relu.k"
    sizes = {"N": 8, "C": 64, "H": 28, "W": 28, "K": 256, "R": 1, "S": 1, "pad": 0}
    f = driver.specialise(
        kernels_dsl.source("conv_bn_relu"), source, AVX2.machine, None, sizes, "f32", layout
    )
    for name in PIPELINES["tensor"][: PIPELINES["tensor"].index("choose-layouts")]:
        f = load(name)().run(f, AVX2)
    sorted_by_memory = {n: tuple(t.shape[a] for a in t.memory_order) for n, t in f.tensors().items()}
    assert (sorted_by_memory["x"], sorted_by_memory["y"]) == (rows, columns)
    assert sorted_by_memory["w"] == (256, 64)
