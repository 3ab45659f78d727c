"""What is recognised as a contraction, and which operand is which."""

from __future__ import annotations

import pytest

from opc.tensor.text import parse_function
from opc.tensor.verify import verify
from passes.tensor._contraction import Contraction, classify_contraction


def classify(arguments: str, op: str) -> Contraction | None:
    args = "".join(f"  arg {a}\n" for a in arguments.split("; "))
    head, _, piece = op.partition(" {")
    f = parse_function(f"func v1 f {{\n{args}  op {head} {{\n    piece {piece}\n  }}\n  return y\n}}\n")
    verify(f)
    return classify_contraction(f.ops[0], f)


def names(c: Contraction) -> dict[str, str]:
    parts = {"batch": c.batch, "m": c.m, "n": c.n, "k": c.k, "broadcast": c.broadcast}
    found = {part: " ".join(d.name for d in dims) for part, dims in parts.items() if dims}
    return {"a": c.a.tensor, "b": c.b.tensor, **found}


def test_grouped_convolution() -> None:
    c = classify(
        "x: f16[2,8,6,6] input; w: f16[6,4,3,3] param",
        "y: f16[2,6,6,6] sum accumulate f32 {n<2, g<2, k<3, p<6, q<6 reduce c<4, r<3, s<3 at n, g*3 + k, p, q"
        " = mul(x[n, g*4 + c, p + r - 1, q + s - 1] else 0, w[g*3 + k, c, r, s])",
    )
    assert c is not None
    assert c.is_cube
    assert names(c) == {"a": "x", "b": "w", "batch": "g", "m": "n p q", "n": "k", "k": "c r s"}
    assert not c.swapped
    assert c.a.fill == 0


@pytest.mark.parametrize(
    ("body", "swapped"), [("mul(x[m, k], w[n, k])", False), ("mul(w[n, k], x[m, k])", True)]
)
def test_parameters_are_b(body: str, swapped: bool) -> None:
    args = "x: f32[8,16] input; w: f32[4,16] param"
    c = classify(args, f"y: f32[8,4] sum accumulate f32 {{m<8, n<4 reduce k<16 at m, n = {body}")
    assert c is not None
    assert (names(c), c.swapped) == ({"a": "x", "b": "w", "m": "m", "n": "n", "k": "k"}, swapped)


def test_a_reduced_dimension_that_neither_operand_has_is_not_for_the_cube() -> None:
    args = "x: f32[3] input; d: f32[3,4] input"
    c = classify(args, "y: f32[4] sum accumulate f32 {n<4 reduce k<3, r<5 at n = mul(d[k, n], x[k])")
    assert c is not None
    assert not c.is_cube


def test_without_parameters_b_indexes_the_fastest_dimension() -> None:
    args = "p: f32[8,16] input; q: f32[4,16] input"
    rows = "y: f32[8,4] sum accumulate f32 {m<8, n<4 reduce k<16 at m, n = mul(q[n, k], p[m, k])"
    columns = rows.replace("f32[8,4]", "f32[8,4] order 1,0")
    first, second = classify(args, rows), classify(args, columns)
    assert first is not None
    assert second is not None
    assert (first.a.tensor, first.b.tensor) == ("p", "q")
    assert (second.a.tensor, second.b.tensor) == ("q", "p")


def test_batched_product_and_single_row() -> None:
    c = classify(
        "q: f32[2,5,16] input; k: f32[2,7,16] input",
        "y: f32[2,5,7] sum accumulate f32 {b<2, i<5, j<7 reduce d<16 at b, i, j = mul(q[b, i, d], k[b, j, d])",
    )
    assert c is not None
    assert names(c) == {"a": "q", "b": "k", "batch": "b", "m": "i", "n": "j", "k": "d"}
    c = classify(
        "x: f32[16] input; w: f32[4,16] param",
        "y: f32[4] sum accumulate f32 {n<4 reduce k<16 at n = mul(x[k], w[n, k])",
    )
    assert c is not None
    assert c.is_cube
    assert c.m == ()


def test_widening_casts_keep_the_operand() -> None:
    args = "x: i8[8,16] input; w: i8[4,16] param"
    body = "mul(i32(x[m, k]), i32(w[n, k]))"
    c = classify(args, f"y: i32[8,4] sum accumulate i32 {{m<8, n<4 reduce k<16 at m, n = {body}")
    assert c is not None
    assert c.is_cube
    rounded = body.replace("i32(x", "f16(x").replace("i32(w", "f16(w")
    args = args.replace("i8", "f32")
    assert (
        classify(args, f"y: f32[8,4] sum accumulate f32 {{m<8, n<4 reduce k<16 at m, n = {rounded}") is None
    )


@pytest.mark.parametrize(
    "op",
    [
        # Depthwise: no columns of its own.
        "y: f32[8,4] sum accumulate f32 {m<8, n<4 reduce k<3 at m, n = mul(x[m + k - 1, n] else 0, s[n])",
        # Nothing is reduced in both operands.
        "y: f32[8,4] sum accumulate f32 {m<8, n<4 reduce k<16 at m, n = mul(x[m, k], s[n])",
        # An output dimension that neither operand knows.
        "y: f32[8,2,4] sum accumulate f32 {m<8, z<2, n<4 reduce k<16 at m, z, n = mul(x[m, k], w[n, k])",
        # Terms that must be skipped.
        "y: f32[8,4] sum accumulate f32 {m<8, n<4 reduce k<16 at m, n guard k - m = mul(x[m, k], w[n, k])",
    ],
)
def test_products_that_are_no_work_for_a_matrix_unit(op: str) -> None:
    c = classify("x: f32[8,16] input; w: f32[4,16] param; s: f32[16] param", op)
    assert c is not None
    assert not c.is_cube


@pytest.mark.parametrize(
    "op",
    [
        "y: f32[8,4] max accumulate f32 {m<8, n<4 reduce k<16 at m, n = mul(x[m, k], w[n, k])",
        "y: f32[8,4] sum accumulate f32 {m<8, n<4 reduce k<16 at m, n = add(x[m, k], w[n, k])",
        "y: f32[8,4] sum accumulate f32 {m<8, n<4 reduce k<16 at m, n = mul(neg(x[m, k]), w[n, k])",
        "y: f32[8,4] {m<8, n<4 at m, n = mul(x[m, 0], w[n, 0])",
    ],
)
def test_other_ops(op: str) -> None:
    assert classify("x: f32[8,16] input; w: f32[4,16] param", op) is None
