"""Simplifying keeps the bits: signed zeros, infinities and NaN included."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from opc import machine
from opc.affine import Affine
from opc.dtypes import DType
from opc.pipeline import Context
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Arg, Call, Const, Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor
from opc.tensor.text import print_function
from opc.tensor.verify import problems
from passes.tensor.simplify import Simplify

CONTEXT = Context(machine.load("avx2"))
SPECIAL = (np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38)
EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.1, 3.0, -7.5, 65504.0, *SPECIAL], np.float32)
PAIRS = np.array(list(product(EDGES, EDGES)), np.float32)
VALUES = (0, 1, -1, 2, 0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -8.0, 0.1, 3.0, float("inf"), float("-inf"))
POINT = (Affine.var("i"),)


def leaves() -> st.SearchStrategy[Expr]:
    reads = st.builds(Read, st.sampled_from(["x", "y"]), st.just(POINT))
    edge = st.just(Read("x", (Affine.var("i") + 1,), -0.0))
    consts = st.builds(
        Const, st.sampled_from(VALUES), st.sampled_from([None, None, None, DType.F32, DType.F16])
    )
    dims = st.builds(lambda c: Call("f32", (DimValue(Affine.of({"i": c}, 1)),)), st.sampled_from([0, 1, 2]))
    return st.one_of(reads, reads, consts, dims, edge)


def calls(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    binary = st.sampled_from(["add", "sub", "mul", "div", "max", "min"])
    unary = st.sampled_from(["neg", "neg", "abs", "f32", "f16", "bf16"])
    compare = st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"])
    sides = st.one_of(st.tuples(inner, inner), st.just((DimValue(Affine.var("i")), Const(500))))
    condition = st.builds(Call, compare, sides)
    return st.one_of(
        st.builds(Call, binary, st.tuples(inner, inner)),
        st.builds(Call, unary, st.tuples(inner)),
        st.builds(lambda c, a, b: Call("select", (c, a, b)), condition, inner, inner),
    )


EXPRESSIONS: Any = st.recursive(leaves(), calls, max_leaves=8)


@settings(max_examples=400, deadline=None)
@example(body=Call("mul", (Const(0), Const(-1))))  # -0.0, once the literals are floats
@example(body=Call("select", (Call("ge", (DimValue(POINT[0]), Const(500))), Const(0), Const(-0.0))))
@given(body=EXPRESSIONS)
def test_bits_stay(body: Expr) -> None:
    size = len(PAIRS)
    args = tuple(Arg(Tensor(name, DType.F32, (size,))) for name in ("x", "y"))
    op = Op((Tensor("z", DType.F32, (size,)),), (Piece((Dim("i", size),), POINT, body),))
    before = Function("f", args, ("z",), (op,))
    if problems(before):
        return
    after = Simplify().run(before, CONTEXT)
    note(print_function(before) + print_function(after))
    assert not problems(after)
    arrays = {"x": PAIRS[:, 0], "y": PAIRS[:, 1]}
    left, right = (evaluate(f, arrays, np.float32, quantise=True)["z"] for f in (before, after))
    nan = np.isnan(left)
    np.testing.assert_array_equal(nan, np.isnan(right))
    np.testing.assert_array_equal(left[~nan].view(np.uint32), right[~nan].view(np.uint32))
