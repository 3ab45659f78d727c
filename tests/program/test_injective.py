"""Injectivity and meetings of affine indices, against enumeration."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from opc.affine import Affine
from opc.program.injective import overlaps_when_shifted, proves_injective

NAMES = ("a", "b", "c")
FORMS = st.builds(
    lambda cs, k: Affine.of(dict(zip(NAMES, cs, strict=True)), k),
    st.tuples(*(st.integers(-4, 6),) * 3),
    st.integers(-3, 3),
)
INDICES = st.lists(FORMS, min_size=1, max_size=3)
EXTENTS = st.fixed_dictionaries({n: st.integers(1, 5) for n in NAMES})


def reached(index: list[Affine], extents: dict[str, int]) -> list[tuple[int, ...]]:
    points = product(*(range(extents[n]) for n in NAMES))
    return [tuple(f.evaluate(dict(zip(NAMES, p, strict=True))) for f in index) for p in points]


@settings(max_examples=200, deadline=None)
@given(INDICES, EXTENTS)
def test_injective_is_exact_on_small_boxes(index: list[Affine], extents: dict[str, int]) -> None:
    found = reached(index, extents)
    assert proves_injective(index, extents) == (len(set(found)) == len(found))


def test_large_boxes_need_a_radix() -> None:
    extents = {"a": 1 << 20, "b": 64}
    assert proves_injective([Affine.parse("a*64 + b")], extents)
    assert proves_injective([Affine.parse("a + b"), Affine.parse("b")], extents)
    assert not proves_injective([Affine.parse("a*63 + b")], extents)


@settings(max_examples=200, deadline=None)
@given(INDICES, EXTENTS)
def test_meetings_are_real(index: list[Affine], extents: dict[str, int]) -> None:
    """A proof of overlap is never wrong."""
    if extents["a"] == 1 or not overlaps_when_shifted(index, "a", extents):
        return
    by_iteration = [
        set(reached([f.substitute({"a": n}) for f in index], {**extents, "a": 1}))
        for n in range(extents["a"])
    ]
    assert any(x & y for i, x in enumerate(by_iteration) for y in by_iteration[i + 1 :])


def test_meetings_in_huge_ranges_are_quick() -> None:
    extents = {"a": 1 << 60, "b": 4}
    assert overlaps_when_shifted([Affine.parse("a*2 + b")], "a", extents)
    assert not overlaps_when_shifted([Affine.parse("a*4 + b")], "a", extents)
    assert not overlaps_when_shifted([Affine.parse("a*2 + b*5")], "a", {"a": 5, "b": 2})
