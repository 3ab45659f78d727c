"""Interval and lattice reasoning against enumeration of small domains."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.affine import Affine
from opc.tensor import domain
from opc.tensor.ir import Const, Dim, Piece
from opc.tensor.text import parse_function
from opc.tensor.verify import problems

Draw = Any


@st.composite
def pieces(draw: Draw, rank: int) -> Piece:
    dims = tuple(Dim(n, draw(st.integers(1, 4))) for n in "ijk"[: draw(st.integers(0, 3))])

    def form() -> Affine:
        terms = {d.name: draw(st.integers(-3, 3)) for d in dims}
        return Affine.of(terms, draw(st.integers(-3, 4)))

    guards = tuple(form() for _ in range(draw(st.integers(0, 2))))
    return Piece(dims, tuple(form() for _ in range(rank)), Const(0), (), guards)


def points(piece: Piece) -> list[tuple[int, ...]]:
    found = []
    for values in product(*(range(d.extent) for d in piece.dims)):
        env = dict(zip((d.name for d in piece.dims), values, strict=True))
        if all(g.evaluate(env) >= 0 for g in piece.guards):
            found.append(tuple(f.evaluate(env) for f in piece.index))
    return found


@pytest.mark.parametrize("enumerated", [domain.ENUMERATE, 0])
def test_facts_are_true(monkeypatch: pytest.MonkeyPatch, enumerated: int) -> None:
    """Sound with and without the fallback to enumeration, complete with it."""
    monkeypatch.setattr(domain, "ENUMERATE", enumerated)

    @settings(max_examples=150, deadline=None)
    @given(pieces(2), pieces(2), st.integers(1, 6))
    def run(a: Piece, b: Piece, extent: int) -> None:
        written = points(a)
        bounds = domain.parallel_box(a)
        if bounds is None:
            assert written == []
            return
        injective = domain.injective(a, bounds)
        if enumerated:
            assert injective == (len(set(written)) == len(written))
        elif injective:
            assert len(set(written)) == len(written)
        assert domain.count(a, bounds) in (len(written), None)
        for axis, form in enumerate(a.index):
            if domain.inside(form, extent, bounds, a.guards):
                assert all(0 <= p[axis] < extent for p in written)
        other = domain.parallel_box(b)
        if other is not None:
            apart = domain.disjoint(a, b, bounds, other)
            if enumerated:
                assert apart == (not set(written) & set(points(b)))
            elif apart:
                assert not set(written) & set(points(b))

    run()


GRADIENT = """func v1 strided_gradient {
  arg dy: f32[1,99,55] input
  arg w: f32[99,4,3] input
  op dx: f32[1,4,111] sum fill 0.0 {
    piece n<1, c<4, h<55 reduce k<99 at n, c, h*2 + 1 = mul(dy[n, k, h], w[k, c, 1])
    piece n<1, c<4, h<56 reduce k<99, r<2 at n, c, h*2 guard h - r, -h + r + 54 = mul(dy[n, k, h - r], w[k, c, r*2])
  }
  return dx
}
"""
TRIANGLES = """func v1 triangles {
  arg x: f32[200,200] input
  op y: f32[200,200] fill 0.0 {
    piece i<200, j<200 at i, j guard i - j = x[i, j]
    piece i<200, j<200 at i, j guard -i + j - 1 = x[i - 1, j]
  }
  return y
}
"""


def test_gradient_phases_and_triangles_are_proved_without_enumeration() -> None:
    assert problems(parse_function(GRADIENT)) == []
    # Row -1 would be read where i = 0, and the guard allows it.
    assert [d.code for d in problems(parse_function(TRIANGLES))] == ["E0524"]
    assert problems(parse_function(TRIANGLES.replace("x[i - 1, j]", "x[j, i]"))) == []
