"""Questions about affine index tuples that decide whether two iterations meet in one element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

from opc.affine import Affine

_ENUMERABLE = 1 << 14
Terms = tuple[tuple[str, int], ...]


def proves_injective(index: Sequence[Affine], extents: Mapping[str, int]) -> bool:
    """Whether different points of the box ``extents`` certainly have different indices.

    Names outside ``extents`` are constants. An axis determines its names when sorted coefficients
    form a mixed radix (each exceeds the reach of all smaller ones); names so determined drop out of
    the other axes. What that leaves is counted if the box is small, otherwise refused.
    """
    open_names = {n for n, e in extents.items() if e > 1}
    forms = [tuple((n, c) for n, c in f.terms if n in extents) for f in index]
    changed = True
    while open_names and changed:
        changed = False
        for form in forms:
            terms = [(abs(c), n) for n, c in form if n in open_names]
            if terms and _is_radix(sorted(terms), extents):
                open_names -= {n for _, n in terms}
                changed = True
    return not open_names or _counts_injective(forms, {n: extents[n] for n in sorted(open_names)})


def _is_radix(terms: list[tuple[int, str]], extents: Mapping[str, int]) -> bool:
    reach = 0
    for coefficient, name in terms:
        if coefficient <= reach:
            return False
        reach += coefficient * (extents[name] - 1)
    return True


def _counts_injective(forms: Sequence[Terms], extents: Mapping[str, int]) -> bool:
    size = 1
    for extent in extents.values():
        size *= extent
    if size > _ENUMERABLE:
        return False
    seen = set()
    for point in product(*(range(e) for e in extents.values())):
        env = dict(zip(extents, point, strict=True))
        seen.add(tuple(sum(c * env.get(n, 0) for n, c in f) for f in forms))
    return len(seen) == size


def overlaps_when_shifted(index: Sequence[Affine], name: str, extents: Mapping[str, int]) -> bool:
    """Whether two different values of ``name`` provably reach a common element.

    All other names range freely and independently in both. False means "no proof", not "disjoint".
    """
    moving = [f for f in index if f.coefficient(name)]
    if not moving:
        return True
    if len(moving) > 1:
        return False
    form = moving[0]
    step = abs(form.coefficient(name))
    if _is_radix(sorted((abs(c), n) for n, c in form.terms if extents[n] > 1), extents):
        return False
    # A name shared with another axis ties both iterations together there, so it cancels here.
    others = {n for f in index if f is not form for n in f.names}
    rest = [(abs(c), extents[n]) for n, c in form.terms if n != name and n not in others]
    size = 1
    for _, extent in rest:
        size *= extent
    if size > _ENUMERABLE:
        return False
    sums = (
        sum(c * v for (c, _), v in zip(rest, p, strict=True)) for p in product(*(range(e) for _, e in rest))
    )
    # Neighbours among the values that are equal modulo the step are the closest meetings.
    ordered = sorted({(v % step, v) for v in sums})
    return any(x[0] == y[0] and (y[1] - x[1]) // step < extents[name] for x, y in pairwise(ordered))
