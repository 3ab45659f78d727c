"""Text of tensor IR: it reads back exactly, and nothing makes the reader fall over."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import IRError
from opc.tensor.ir import Arg, Call, Const, Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor
from opc.tensor.text import parse_function, print_expr, print_function
from tests.strategies.tensor import functions

EVERYTHING = """func v1 everything {
  source "every thing.k"
  doc "Two lines,\\n\\"quoted\\", größer."
  arg x: f32[1,64,56,56] order 0,2,3,1 input
  arg w: f32[64,64,3,3] param
  arg s: f16[] order () inout
  op a: f32[1,64,56,56] sum accumulate f32 group g0 line 7 {
    piece n<1, k<64, p<56, q<56 reduce c<64, r<3, s<3 at n, k, p, q = mul(x[n, c, p + r - 1, q] else 0, w[k, c, r, s])
  }
  op y: f32[1,64,56,56] order 0,2,3,1 group g0 prepare fill -inf line 8 {
    piece at<1, k<62, p<56, guard<56 at at, k, p, guard guard -k + p + 7, k - 1 = max(a[at, k, p, guard], 0.1:f16)
    piece n<1, p<56 at n, 63, p, -p + 55 = select(lt(dim(-p*2 + 3), -1), -0.0, nan)
  }
  op m: f64[], m.2: f64[] moments accumulate f64 {
    piece reduce k<64 at () = f64(w[k, 0, 0, 0] else 1e-05)
  }
  return y, m
}
"""


def test_every_construct_reads_back() -> None:
    f = parse_function(EVERYTHING)
    assert print_function(f) == EVERYTHING
    assert f.args[0].tensor.order == (0, 2, 3, 1)
    assert f.args[2].tensor.order == ()
    assert f.ops[0].accumulate is DType.F32
    assert f.ops[1].prepare
    assert f.ops[1].fill == -math.inf
    assert f.ops[1].pieces[0].guards[0] == Affine.of({"k": -1, "p": 1}, 7)
    assert f.doc == 'Two lines,\n"quoted", größer.'


def test_spacing_and_comments_do_not_matter() -> None:
    loose = EVERYTHING.replace("  op y", "# a comment\n\n\top   y").replace(", k<64", " ,\n k < 64")
    assert parse_function(loose) == parse_function(EVERYTHING)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(functions())
def test_random_functions_read_back(f: Function) -> None:
    text = print_function(f)
    assert parse_function(text) == f
    assert print_function(parse_function(text)) == text


numbers = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.just(math.nan))


@settings(max_examples=100, deadline=None)
@given(numbers, st.sampled_from([None, *DType]))
def test_literals_keep_value_and_type(value: float | int, dtype: DType | None) -> None:
    read = _one(Const(value, dtype))
    assert type(read.value) is type(value)
    assert math.copysign(1, read.value) == math.copysign(1, value) or math.isnan(value)
    assert read == Const(value, dtype)


def _one(expr: Const) -> Const:
    op = Op((Tensor("y", DType.F32, ()),), (Piece((), (), expr),))
    read = parse_function(print_function(Function("f", (), ("y",), (op,)))).ops[0].pieces[0].body
    assert isinstance(read, Const)
    return read


def test_deep_expressions_do_not_recurse() -> None:
    expr: Expr = Read("x", (Affine.var("i"),))
    for _ in range(20_000):
        expr = Call("neg", (expr,))
    text = print_expr(expr)
    head = "func v1 deep {\n  arg x: f32[4] input\n  op y: f32[4] {\n    piece i<4 at i = "
    body = f"{head}{text}\n  }}\n  return y\n}}\n"
    assert print_function(parse_function(body)) == body


def test_dimensions_may_be_called_like_keywords() -> None:
    names = ["at", "reduce", "guard", "piece", "dim", "line", "fill", "inf"]
    dims = tuple(Dim(n, 2) for n in names)
    index = tuple(Affine.var(n) for n in names)
    piece = Piece(dims[:4], index[:4], DimValue(index[4]), dims[4:], (index[2],))
    op = Op((Tensor("op", DType.I32, (2, 2, 2, 2)),), (piece,), "sum", 0)
    f = Function("func", (Arg(Tensor("arg", DType.F32, (2,))),), ("op",), (op,))
    assert parse_function(print_function(f)) == f


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_gives_a_diagnostic_or_a_function(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(EVERYTHING)))
    length = data.draw(st.integers(0, 12))
    patch = data.draw(
        st.sampled_from(["", "{", "}", ")", "(", "[", "]", ",", "9" * 400, '"', "é", "\0", "-", "at"])
    )
    text = EVERYTHING[:start] + patch + EVERYTHING[start + length :]
    assert _reads_or_reports(text)


def _reads_or_reports(text: str) -> bool:
    try:
        f = parse_function(text)
    except IRError as error:
        return error.code.startswith("E041") and error.span is not None
    return parse_function(print_function(f)) == f


@pytest.mark.parametrize("text", ["", "\n\n", "func", "func v1", "func v1 f {", "func v1 f { return", "\x00"])
def test_short_texts(text: str) -> None:
    with pytest.raises(IRError):
        parse_function(text)
