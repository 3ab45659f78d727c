"""Axis sets against enumeration: injectivity, disjointness, coverage."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.affine import Affine
from opc.lang.coverage import AxisSet, NotInjectiveError, TooComplexError, axis_set, missing, overlap, witness

Terms = list[tuple[int, int]]
terms = st.lists(st.tuples(st.integers(-7, 7), st.integers(1, 5)), max_size=3)


def form(parts: Terms, shift: int) -> tuple[Affine, dict[str, int]]:
    """An axis index with its least value at ``shift``, and the extents of its dimensions."""
    low = sum(min(0, c * (e - 1)) for c, e in parts)
    return Affine.of({f"d{i}": c for i, (c, _) in enumerate(parts)}, shift - low), {
        f"d{i}": e for i, (_, e) in enumerate(parts)
    }


def values(f: Affine, extents: dict[str, int]) -> list[int]:
    names = [n for n in extents if n in f.names]
    return [
        f.evaluate(dict(zip(names, v, strict=True))) for v in product(*(range(extents[n]) for n in names))
    ]


def made(parts: Terms, shift: int) -> AxisSet | None:
    f, extents = form(parts, shift)
    found = values(f, extents)
    try:
        result = axis_set(f, extents)
    except NotInjectiveError:
        assert len(set(found)) < len(found)
        return None
    assert len(set(found)) == len(found) == result.size
    assert {v for v in range(max(found) + 2) if result.has(v)} == set(found)
    return result


@given(terms, st.integers(0, 6), terms, st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_sets_agree_with_enumeration(a: Terms, i: int, b: Terms, j: int) -> None:
    first, second = made(a, i), made(b, j)
    if first is None or second is None:
        return
    common = set(values(*form(a, i))) & set(values(*form(b, j)))
    assert first.disjoint(second) == second.disjoint(first) == (not common)
    assert (overlap([(first,), (second,)]) is not None) == bool(common)


@given(
    st.integers(1, 40),
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(0, 9),
    st.integers(1, 9),
    st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_progressions(s: int, o: int, t: int, p: int, m: int, n: int) -> None:
    a = AxisSet(o, s, m, o + s * (m - 1))
    b = AxisSet(p, t, n, p + t * (n - 1))
    assert a.disjoint(b) == (not set(range(o, o + s * m, s)) & set(range(p, p + t * n, t)))


@given(st.lists(st.tuples(terms, st.integers(0, 4), terms, st.integers(0, 4)), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_coverage(pieces: list[tuple[Terms, int, Terms, int]]) -> None:
    boxes, cells = [], []
    for a, i, b, j in pieces:
        rows, columns = made(a, i), made(b, j)
        if rows is None or columns is None:
            return
        boxes.append((rows, columns))
        cells.append(set(product(values(*form(a, i)), values(*form(b, j)))))
    pair = overlap(boxes)
    if pair is not None:
        assert cells[pair[0]] & cells[pair[1]]
        return
    union: set[tuple[int, ...]] = set().union(*cells)
    shape = tuple(max(c[axis] for c in union) + 1 for axis in (0, 1))
    rest = set(product(range(shape[0]), range(shape[1]))) - union
    assert missing(boxes, shape) == len(rest)
    point = witness(boxes, shape)
    assert point is None or point in rest
    assert point is not None or not rest


def test_long_axes() -> None:
    far = {"i": 2**30, "j": 2}
    assert axis_set(Affine.of({"i": 2, "j": 1}), far) == AxisSet(0, 1, 2**31, 2**31 - 1)
    with pytest.raises(TooComplexError):
        axis_set(Affine.of({"i": 3, "j": 1}), far)
