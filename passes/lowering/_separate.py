"""Separable windows: a reduction over a box of positions as one along each axis after the other.

Maxima, minima and sums over independent dimensions nest: the maximum of a 3x3 window is that of three maxima of
columns, and neighbouring windows share those. The terms of a sum may be added in any order (docs/language.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.tensor.ir import Dim, DimValue, Expr, Op, Piece, Read, Tensor, rewrite, walk
from opc.tensor.types import expression_type
from passes.lowering._row_plan import stride

NESTING = ("max", "min", "sum")
_POSITION = "position"


@dataclass(frozen=True, slots=True)
class Slide:
    """A reduced dimension ``over`` that slides with the parallel dimension ``along``: every index form has both in
    these proportions, or neither.
    """

    along: str
    over: str
    step: int
    pace: int
    extent: int

    def span(self, size: int) -> int:
        """Positions under ``size`` neighbouring windows."""
        return self.step * (size - 1) + self.pace * (self.extent - 1) + 1


@dataclass(frozen=True, slots=True)
class Separated:
    """``first`` reduces along all axes but the fastest one, at every position of that; ``second`` along ``inner``.
    ``outer`` slides along the slowest of the others.
    """

    first: Op
    second: Op
    inner: Slide
    outer: Slide
    position: str


def separate(op: Op, tensors: Mapping[str, Tensor]) -> Separated | None:
    """The op's window split off along its fastest axis, if it has several axes and neighbours share positions."""
    piece = op.pieces[0]
    if op.monoid not in NESTING or len(op.pieces) > 1 or piece.guards or op.fill is not None:
        return None
    found = [s for d in piece.reduce if d.extent > 1 and (s := _slide(piece, d)) is not None]
    slides = sorted(found, key=lambda s: _distance(piece, tensors, s.along))
    if len(slides) < 2 or len(slides) < len(piece.reduce) or slides[0].span(1) < slides[0].step:
        return None
    inner, outer = slides[0], slides[-1]
    dtype = op.accumulate or expression_type(piece.body, tensors, op.outputs[0].dtype)
    if dtype is None or any(inner.along in f.names and f.as_var() is None for f in piece.index):
        return None
    position = _unused(_POSITION, piece)
    whole = Dim(position, inner.span(piece.extents[inner.along]))
    dims = tuple(whole if d.name == inner.along else d for d in piece.dims)
    dims = tuple(
        sorted(dims, key=lambda d: -_distance(piece, tensors, inner.along if d is whole else d.name))
    )
    partial = Tensor(_unused_tensor(f"{op.name}_part", tensors), dtype.compute, tuple(d.extent for d in dims))
    rest = tuple(d for d in piece.reduce if d.name != inner.over)
    at = tuple(Affine.var(d.name) for d in dims)
    first = Piece(dims, at, rewrite(piece.body, lambda n: _at_position(n, inner, position)), rest)
    window = Affine.of({inner.along: inner.step, inner.over: inner.pace})
    read = Read(partial.name, tuple(f.substitute({position: window}) for f in at))
    second = replace(piece, body=read, reduce=tuple(d for d in piece.reduce if d.name == inner.over))
    return Separated(
        replace(op, outputs=(partial,), pieces=(first,)),
        replace(op, pieces=(second,)),
        inner,
        outer,
        position,
    )


def _forms(piece: Piece) -> list[Affine]:
    """Every form in the body."""
    nodes = list(walk(piece.body))
    found = [f for n in nodes if isinstance(n, Read) for f in n.index]
    return found + [n.form for n in nodes if isinstance(n, DimValue)]


def _slide(piece: Piece, d: Dim) -> Slide | None:
    """How a reduced dimension slides; None where it does not, or not everywhere alike."""
    parallel = {p.name for p in piece.dims}
    forms = [f for f in _forms(piece) if d.name in f.names]
    partners = {frozenset(f.names & parallel) for f in forms}
    if len(partners) != 1 or len(next(iter(partners))) != 1:
        return None
    along = next(iter(next(iter(partners))))
    using = [f for f in _forms(piece) if {d.name, along} & f.names]
    steps = {(f.coefficient(along), f.coefficient(d.name)) for f in using}
    if len(steps) != 1 or any(f.names != {d.name, along} for f in using):
        return None
    step, pace = next(iter(steps))
    return Slide(along, d.name, step, pace, d.extent) if step > 0 and pace > 0 else None


def _at_position(node: Expr, s: Slide, position: str) -> Expr:
    """A form over both dimensions of the slide as one over the position that they add up to."""

    def moved(form: Affine) -> Affine:
        return Affine.var(position) + form.const if s.over in form.names else form

    if isinstance(node, Read):
        return replace(node, index=tuple(moved(f) for f in node.index))
    return DimValue(moved(node.form)) if isinstance(node, DimValue) else node


def _distance(piece: Piece, tensors: Mapping[str, Tensor], name: str) -> int:
    """The farthest step in memory that a dimension makes in what is read."""
    reads = [n for n in walk(piece.body) if isinstance(n, Read)]
    return max((stride(r.index, tensors[r.tensor], name) for r in reads), default=0)


def _unused(name: str, piece: Piece) -> str:
    while name in piece.extents:
        name += "_"
    return name


def _unused_tensor(name: str, tensors: Mapping[str, Tensor]) -> str:
    while name in tensors:
        name += "_"
    return name
