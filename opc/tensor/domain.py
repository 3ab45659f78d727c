"""Facts about the domain of a piece, decided by interval and lattice arithmetic.

A domain is the box of a piece's dimensions cut by its guards (forms >= 0). Everything here is
sound and quick, and complete for what the language and the gradient produce; the rest falls back
to enumeration on domains of at most ``ENUMERATE`` points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import gcd, prod

from opc.affine import Affine
from opc.tensor.ir import Piece

ENUMERATE = 4096
Box = dict[str, tuple[int, int]]  # inclusive bounds of every dimension


def box(extents: Mapping[str, int], guards: Sequence[Affine]) -> Box | None:
    """Bounds of every dimension where all guards hold; None if they hold nowhere."""
    bounds = {name: (0, extent - 1) for name, extent in extents.items()}
    for _ in range(2 if guards else 0):
        for guard in guards:
            high = interval(guard, bounds)[1]
            if high < 0:
                return None
            for name, c in guard.terms:
                low, top = bounds[name]
                # c*v >= -(the most that the other terms can add)
                rest = high - (c * top if c > 0 else c * low)
                if c > 0:
                    low = max(low, -(rest // c))
                else:
                    top = min(top, rest // -c)
                if low > top:
                    return None
                bounds[name] = (low, top)
    return bounds


def interval(form: Affine, bounds: Box) -> tuple[int, int]:
    """Least and greatest value of ``form`` over a box, both inclusive."""
    low = high = form.const
    for name, c in form.terms:
        first, last = bounds[name]
        low += c * (first if c > 0 else last)
        high += c * (last if c > 0 else first)
    return low, high


def nonnegative(form: Affine, bounds: Box, guards: Sequence[Affine]) -> bool:
    """Whether ``form >= 0`` follows from the box and at most one guard."""
    if interval(form, bounds)[0] >= 0:
        return True
    coefficients = dict(form.terms)
    for guard in guards:
        ratios = {Fraction(coefficients.get(name, 0), c) for name, c in guard.terms}
        for ratio in sorted(r for r in ratios if r > 0):
            # form - ratio*guard >= 0 and guard >= 0 give form >= 0; scaled to integers.
            rest = form * ratio.denominator - guard * ratio.numerator
            if interval(rest, bounds)[0] >= 0:
                return True
    return False


def inside(form: Affine, extent: int, bounds: Box, guards: Sequence[Affine]) -> bool:
    """Whether ``0 <= form < extent`` on the whole domain."""
    return nonnegative(form, bounds, guards) and nonnegative(form * -1 + (extent - 1), bounds, guards)


def parallel_guards(piece: Piece) -> tuple[Affine, ...]:
    """Guards over parallel dimensions only: they decide which elements exist."""
    parallel = {d.name for d in piece.dims}
    return tuple(g for g in piece.guards if g.names <= parallel)


def parallel_box(piece: Piece) -> Box | None:
    """Bounds of the parallel dimensions where elements exist."""
    return box({d.name: d.extent for d in piece.dims}, parallel_guards(piece))


def injective(piece: Piece, bounds: Box) -> bool:
    """Whether distinct points of the parallel dimensions get distinct output indices."""
    spans = {name: high - low for name, (low, high) in bounds.items() if high > low}
    open_dims = set(spans)
    guards = parallel_guards(piece)
    progress = True
    while open_dims and progress:
        progress = False
        for form in piece.index:
            terms = sorted((abs(c), name, c) for name, c in form.terms if name in open_dims)
            lower, ok = Affine(), bool(terms)
            for step, name, c in terms:
                # Digits: what the smaller ones can add up to (guards may bound it) stays below one step.
                rest = lower * -1 + (interval(lower, bounds)[0] + step - 1)
                ok = ok and nonnegative(rest, bounds, guards)
                lower = lower + Affine.var(name, c)
            if ok:
                open_dims.difference_update(name for _, name, _ in terms)
                progress = True
    if not open_dims:
        return True
    points = _points(piece, bounds)
    return points is not None and len(set(points)) == len(points)


def count(piece: Piece, bounds: Box | None) -> int | None:
    """How many output elements a piece writes; None if that cannot be told quickly."""
    if bounds is None:
        return 0
    guards = [g for g in parallel_guards(piece) if interval(g, bounds)[0] < 0]
    cut = {name for g in guards for name in g.names}
    free = prod(high - low + 1 for name, (low, high) in bounds.items() if name not in cut)
    within = _count_cut({name: bounds[name] for name in bounds if name in cut}, guards)
    return None if within is None else free * within


def _count_cut(bounds: Box, guards: Sequence[Affine]) -> int | None:
    """Points of a box where all guards hold: one dimension in closed form, the others enumerated."""
    if not guards:
        return 1
    closed = max(bounds, key=lambda name: bounds[name][1] - bounds[name][0])
    others = {name: b for name, b in bounds.items() if name != closed}
    if prod(high - low + 1 for low, high in others.values()) > ENUMERATE:
        return None
    total = 0
    for point in _assignments(others):
        low, high = bounds[closed]
        for g in guards:
            c, rest = g.coefficient(closed), g.evaluate({**point, closed: 0})
            if c > 0:
                low = max(low, -(rest // c))
            elif c < 0:
                high = min(high, rest // -c)
            elif rest < 0:
                low = high + 1
        total += max(0, high - low + 1)
    return total


def disjoint(a: Piece, b: Piece, box_a: Box, box_b: Box) -> bool:
    """Whether two pieces never write the same element."""
    for form_a, form_b in zip(a.index, b.index, strict=True):
        low_a, high_a = interval(form_a, box_a)
        low_b, high_b = interval(form_b, box_b)
        if high_a < low_b or high_b < low_a:
            return True
        step = gcd(*(c for _, c in form_a.terms), *(c for _, c in form_b.terms))
        difference = form_a.const - form_b.const
        if difference % step if step else difference:
            return True
    if _guards_exclude(a, b, box_a):
        return True
    points_a, points_b = _points(a, box_a), _points(b, box_b)
    return points_a is not None and points_b is not None and not set(points_a) & set(points_b)


def _guards_exclude(a: Piece, b: Piece, box_a: Box) -> bool:
    """Whether a guard of each piece contradict where both write the same element.

    Only for outputs indexed by bare dimensions, which is where guards split an axis.
    """
    renamed: dict[str, Affine | int] = {}
    for form_a, form_b in zip(a.index, b.index, strict=True):
        name = form_b.as_var()
        if name is not None:
            renamed[name] = form_a
    for guard_b in parallel_guards(b):
        if not guard_b.names <= renamed.keys():
            continue
        moved = guard_b.substitute(renamed)
        for guard_a in (Affine(), *parallel_guards(a)):
            if interval(moved + guard_a, box_a)[1] < 0:
                return True
    return False


def _points(piece: Piece, bounds: Box) -> list[tuple[int, ...]] | None:
    """Every output index a piece writes, or None on a large domain."""
    if prod(high - low + 1 for low, high in bounds.values()) > ENUMERATE:
        return None
    guards = parallel_guards(piece)
    return [
        tuple(form.evaluate(point) for form in piece.index)
        for point in _assignments(bounds)
        if all(g.evaluate(point) >= 0 for g in guards)
    ]


def _assignments(bounds: Box) -> Iterator[dict[str, int]]:
    for values in product(*(range(low, high + 1) for low, high in bounds.values())):
        yield dict(zip(bounds, values, strict=True))
