"""Every point of a domain is found from the element that it reads, exactly once."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from opc.affine import Affine
from passes.tensor._preimage import preimages

Case = tuple[list[Affine], list[int], dict[str, int]]
COEFFICIENTS = st.sampled_from([1, 1, 1, 2, 3, 4, 6, -1, -2, -3])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    extents = {f"v{i}": draw(st.integers(1, 5)) for i in range(draw(st.integers(1, 4)))}
    index, shape = [], []
    for _ in range(draw(st.integers(1, 3))):
        form = Affine((), draw(st.integers(-3, 3)))
        for name in draw(st.lists(st.sampled_from(sorted(extents)), unique=True, max_size=4)):
            form = form + Affine.var(name, draw(COEFFICIENTS))
        index.append(form)
        shape.append(draw(st.integers(1, 12)))
    return index, shape, extents


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(cases())
def test_every_point_once(case: Case) -> None:
    index, shape, extents = case
    wanted: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for point in product(*(range(e) for e in extents.values())):
        env = dict(zip(extents, point, strict=True))
        element = tuple(form.evaluate(env) for form in index)
        if all(0 <= i < n for i, n in zip(element, shape, strict=True)):
            wanted[element, point] += 1
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for box in preimages(index, shape, extents):
        dims = (*box.dims, *box.reduce)
        assert len({d.name for d in dims}) == len(dims)
        assert not {n for form in box.index for n in form.names} & {d.name for d in box.reduce}
        for values in product(*(range(d.extent) for d in dims)):
            env = {d.name: v for d, v in zip(dims, values, strict=True)}
            if all(g.evaluate(env) >= 0 for g in box.guards):
                element = tuple(form.evaluate(env) for form in box.index)
                found[element, tuple(box.values[name].evaluate(env) for name in extents)] += 1
    assert found == wanted


def test_digits_stay_apart() -> None:
    (box,) = preimages(
        [Affine.parse("g*8 + c"), Affine.parse("4*h + w")], [32, 20], {"g": 4, "c": 8, "h": 5, "w": 4}
    )
    assert not box.reduce
    assert [d.name for d in box.dims] == ["g", "c", "h", "w"]


def test_strides_fall_into_phases() -> None:
    boxes = preimages([Affine.parse("p*2 + r - 1")], [8], {"p": 4, "r": 3})
    assert sorted(tuple(d.extent for d in b.reduce) for b in boxes) == [(1,), (2,)]
    assert len(preimages([Affine.parse("p*2")], [8], {"p": 4})) == 1
