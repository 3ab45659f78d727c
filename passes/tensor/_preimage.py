"""Which points of a domain an affine index maps to a given element: reads turned round, for gradients.

For ``t[A(v)]`` with v in a box, ``preimages`` gives boxes whose parallel dimensions run over elements of t and whose
reduced dimensions run over the points that read that element, each point once. Axes are solved one after the other:

- terms that add up like digits (``g*CG + c``) and stay inside are kept: their dimensions become parallel;
- where they overlap (``p*s + r*d``), digit by digit, one dimension is the pivot. With its coefficient s, an element
  is ``s*i + f`` in phase f, and ``r = r0 + s*r'`` with the least r0 for which s divides ``f - r0*d``, so that
  ``p = i + (f - r0*d)/s - d*r'``. Guards hold p in its box. A phase that no r meets has no points;
- further overlapping dimensions are split by their residues: each residue is a layer of its own, to be added up;
- what does not separate is compared: all points are tried, a guard in each direction keeps the equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import gcd, prod

from opc.affine import Affine
from opc.tensor.ir import Dim
from passes.tensor._algebra import fresh

_PHASES = 256  # more boxes than this are compared instead
_LAYERS = 8


@dataclass(frozen=True)
class Preimage:
    """``values`` maps the dimensions of the domain to forms over ``dims`` (elements, written at ``index``) and
    ``reduce`` (points of one element), where the ``guards`` hold. Boxes of one ``layer`` are of different elements.
    """

    values: Mapping[str, Affine]
    dims: tuple[Dim, ...]
    reduce: tuple[Dim, ...]
    index: tuple[Affine, ...]
    guards: tuple[Affine, ...]
    layer: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Partial:
    """A preimage while axes are still unsolved. ``open``: dimensions that nothing determines yet."""

    open: Mapping[str, int]
    values: Mapping[str, Affine] = field(default_factory=dict)
    dims: tuple[Dim, ...] = ()
    reduce: tuple[Dim, ...] = ()
    index: Mapping[int, Affine] = field(default_factory=dict)
    guards: tuple[Affine, ...] = ()
    layer: tuple[int, ...] = ()

    def names(self) -> set[str]:
        return {*self.open, *self.values, *(d.name for d in (*self.dims, *self.reduce))}

    def new(self, name: str) -> str:
        return fresh(name, self.names())


# One way to solve some terms: forms for the dimensions, new dimensions, their value, guards, layer.
@dataclass(frozen=True)
class _Digit:
    value: Affine
    values: Mapping[str, Affine] = field(default_factory=dict)
    dims: tuple[Dim, ...] = ()
    reduce: tuple[Dim, ...] = ()
    guards: tuple[Affine, ...] = ()
    layer: tuple[int, ...] = ()


def preimages(index: Sequence[Affine], shape: Sequence[int], extents: Mapping[str, int]) -> list[Preimage]:
    """The preimages of every element of a tensor of ``shape`` under ``index`` over the box ``extents``."""
    found = [_Partial(dict(extents))]
    todo = sorted(range(len(index)), key=lambda axis: len(index[axis].terms))
    for axis in todo:
        found = [q for p in found for q in _solve_axis(p, axis, index[axis], shape[axis])]
    return [_finish(p, extents, len(index)) for p in found]


def _finish(p: _Partial, extents: Mapping[str, int], rank: int) -> Preimage:
    """Elements in the order of their axes, points in the order of the domain."""
    index = tuple(p.index[axis] for axis in range(rank))
    place = {name: (axis, -abs(c)) for axis, form in enumerate(index) for name, c in form.terms}
    dims = sorted(p.dims, key=lambda d: place[d.name])
    points = {d.name: d for d in p.reduce} | {n: Dim(n, e) for n, e in p.open.items()}
    values = {name: p.values.get(name, Affine.var(name)) for name in extents}
    reduce = tuple(points[name] for name in extents if name in points)
    return Preimage(values, tuple(dims), reduce, index, p.guards, p.layer)


def _solve_axis(p: _Partial, axis: int, form: Affine, extent: int) -> Iterator[_Partial]:
    form = form.substitute(p.values)
    reduced = {d.name for d in p.reduce}
    unknown, known = form.split(p.open)
    if known.names & reduced:
        yield _given(p, axis, form, extent)
        return
    low, high = form.interval({**p.open, **{d.name: d.extent for d in p.dims}})
    apart = low >= 0 and high < extent
    choices = list(_digits(p, axis, unknown, apart)) if unknown.terms else []
    phases = prod(len(c) for c in choices)
    layers = prod(len({d.layer for d in c}) for c in choices)
    shifted = bool(known.terms) and (not apart or any(len(c) > 1 for c in choices))
    if phases > _PHASES or layers > _LAYERS or shifted:
        yield _given(p, axis, form, extent)
        return
    for chosen in product(*choices):
        q = p
        value = known
        for digit in chosen:
            q, value = _with(q, digit), value + digit.value
        yield replace(q, index={**q.index, axis: value}, guards=(*q.guards, value, value * -1 + (extent - 1)))


def _with(p: _Partial, digit: _Digit) -> _Partial:
    settled = {*digit.values, *(d.name for d in digit.dims)}
    return replace(
        p,
        open={n: e for n, e in p.open.items() if n not in settled},
        values={**p.values, **digit.values},
        dims=(*p.dims, *digit.dims),
        reduce=(*p.reduce, *digit.reduce),
        guards=(*p.guards, *digit.guards),
        layer=(*p.layer, *digit.layer),
    )


def _given(p: _Partial, axis: int, form: Affine, extent: int) -> _Partial:
    """The axis as a dimension of its own: a dimension of coefficient 1 follows from it, or all points are compared."""
    name = p.new(f"i{axis}")
    here = Affine.var(name)
    p = replace(p, dims=(*p.dims, Dim(name, extent)), index={**p.index, axis: here})
    pivots = [n for n, c in form.terms if n in p.open and abs(c) == 1]
    if not pivots:
        both = (form - here, here - form)
        forced = tuple(Dim(n, p.open[n]) for n in p.open if n in form.names)
        left = {n: e for n, e in p.open.items() if n not in form.names}
        return replace(p, open=left, reduce=(*p.reduce, *forced), guards=(*p.guards, *both))
    pivot = max(pivots, key=lambda n: p.open[n])
    rest = form - Affine.var(pivot, form.coefficient(pivot))
    value = (here - rest) * form.coefficient(pivot)
    forced = tuple(Dim(n, p.open[n]) for n in p.open if n in rest.names)
    guards = (value, value * -1 + (p.open[pivot] - 1))
    left = {n: e for n, e in p.open.items() if n not in form.names}
    values = {**p.values, pivot: value}
    return replace(p, open=left, values=values, reduce=(*p.reduce, *forced), guards=(*p.guards, *guards))


def _digits(p: _Partial, axis: int, form: Affine, apart: bool) -> Iterator[list[_Digit]]:
    """Alternatives for each group of terms that overlap; groups do not overlap with each other.

    Digits that can leave the tensor together are not kept ``apart``: each dimension shall have bounds of its own.
    """
    terms = sorted(((abs(c), p.open[n], n, c) for n, c in form.terms if p.open[n] > 1), key=lambda t: t[:2])
    ones = [n for n in form.names if p.open[n] == 1]
    if ones:
        yield [_Digit(Affine(), dict.fromkeys(ones, Affine()))]
    group: list[tuple[str, int]] = []
    reach = count = 0
    for i, (step, extent, name, c) in enumerate(terms):
        above = gcd(*(t[0] for t in terms[i:]))
        if group and reach < above and apart:
            yield _group(p, p.new(f"i{axis}" + "_" * count), group)
            group, reach, count = [], 0, count + 1
        group.append((name, c))
        reach += step * (extent - 1)
    if group:
        yield _group(p, p.new(f"i{axis}" + "_" * count), group)


def _group(p: _Partial, element: str, terms: list[tuple[str, int]]) -> list[_Digit]:
    if len(terms) == 1:
        name, c = terms[0]
        return [_Digit(Affine.var(name, c), {}, (Dim(name, p.open[name]),))]
    unit = gcd(*(c for _, c in terms))
    # Count a dimension with a negative coefficient from its end, so that all coefficients are positive.
    upward = {n: Affine.var(n) if c > 0 else Affine.var(n, -1) + (p.open[n] - 1) for n, c in terms}
    start = sum((p.open[n] - 1) * c for n, c in terms if c < 0)
    steps = {n: abs(c) // unit for n, c in terms}
    found = []
    for digit in _overlapping(p, element, steps):
        # The inverse of counting from the end is counting from the end.
        values = {n: upward[n].substitute({n: f}) for n, f in digit.values.items()}
        found.append(replace(digit, value=digit.value * unit + start, values=values))
    return found


def _overlapping(p: _Partial, element: str, steps: Mapping[str, int]) -> Iterator[_Digit]:
    """``sum(step * dim) = i``: phases of the pivot, residues of the other dimensions."""
    pivot = min(steps, key=lambda n: (_cost(p, steps, n), steps[n]))
    sigma, others = steps[pivot], [n for n in steps if n != pivot]
    uneven = [n for n in others if steps[n] % sigma]
    period = {n: sigma // gcd(sigma, steps[n]) for n in others}
    last = uneven[-1] if uneven else None
    reach = sum(step * (p.open[n] - 1) for n, step in steps.items())
    here = Affine.var(element)
    for phase in range(min(sigma, reach + 1)):
        dim = Dim(element, (reach - phase) // sigma + 1)
        for residues in product(*(range(period[n]) for n in uneven[:-1])):
            start = dict.fromkeys(others, 0) | dict(zip(uneven[:-1], residues, strict=True))
            rest = phase - sum(start[n] * steps[n] for n in others)
            if last is not None:
                fitting = [r for r in range(period[last]) if (rest - r * steps[last]) % sigma == 0]
                if not fitting:
                    continue
                start[last] = fitting[0]
                rest -= fitting[0] * steps[last]
            if rest % sigma or any(start[n] >= p.open[n] for n in others):
                continue
            value = here + rest // sigma
            for n in others:
                value = value - Affine.var(n, steps[n] * period[n] // sigma)
            reduce = tuple(Dim(n, -(-(p.open[n] - start[n]) // period[n])) for n in others)
            values = {n: Affine.var(n, period[n]) + start[n] for n in others} | {pivot: value}
            guards = (value, value * -1 + (p.open[pivot] - 1))
            yield _Digit(here * sigma + phase, values, (dim,), reduce, guards, residues)


def _cost(p: _Partial, steps: Mapping[str, int], pivot: str) -> float:
    """Points to try for each element if ``pivot`` follows from the others."""
    cost = 1.0
    for n, step in steps.items():
        if n != pivot:
            cost *= -(-p.open[n] // (steps[pivot] // gcd(steps[pivot], step)))
    return cost
