"""Guards resolved before tiling: bounds on one dim shrink it, others become a select.

A nest then only has rectangular domains, and a skipped term contributes the monoid's identity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isinf

from opc.affine import Affine
from opc.errors import MachineError, fail
from opc.scalar import MONOIDS
from opc.tensor.ir import Call, Const, Dim, DimValue, Expr, Op, Piece, Read, rewrite


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A single-piece op without guards. ``number``: what a term counts as, over the reduced dims, where
    an index is the result; the numbers of the terms that a guard removed stay taken.
    """

    op: Op
    number: Affine


def row_major(dims: tuple[Dim, ...]) -> Affine:
    """Number of a point of a box, last dim fastest."""
    form = Affine()
    for d in dims:
        form = form * d.extent + Affine.var(d.name)
    return form


def without_guards(op: Op) -> list[Rectangle]:
    """Ops with rectangular domains that write what the single-piece op writes; none if its domain is empty.

    Raises MachineError E0622 where a slanted guard leaves elements to another value than the op can give.
    """
    piece = op.pieces[0]
    number = row_major(piece.reduce)
    reduced = {d.name for d in piece.reduce}
    for guard in piece.guards:
        if len(guard.terms) != 1:
            continue
        name = guard.terms[0][0]
        shrunk = _shrink(piece, name)
        if shrunk is None:
            return _without_terms(op, piece) if name in reduced else []
        piece, low = shrunk
        number = number.substitute({name: Affine.var(name) + low})
    rest = tuple(g for g in piece.guards if not _always(g, piece))
    if not rest:
        return [Rectangle(replace(op, pieces=(replace(piece, guards=()),)), number)]
    return [Rectangle(replace(op, pieces=(_select(op, replace(piece, guards=rest)),)), number)]


def identity(op: Op) -> float | int:
    """The value of the op's reduction over no terms, in the type it runs in."""
    assert op.monoid is not None
    value = MONOIDS[op.monoid].identity
    if not isinf(value) or (op.accumulate or op.outputs[0].dtype).is_float:
        return value
    return -(2**31) if value < 0 else 2**31 - 1


def _without_terms(op: Op, piece: Piece) -> list[Rectangle]:
    """Constants for a reduction whose guards leave no term: the identity, index 0, moments of nothing."""
    value = 0 if op.monoid in ("argmax", "argmin", "moments") else identity(op)
    reduced = {d.name for d in piece.reduce}
    guards = tuple(g for g in piece.guards if not g.names & reduced)
    body = Piece(piece.dims, piece.index, Const(value), (), guards)
    found: list[Rectangle] = []
    for out in op.outputs:
        found += without_guards(replace(op, outputs=(out,), pieces=(body,), monoid=None, accumulate=None))
    return found


def _always(guard: Affine, piece: Piece) -> bool:
    return guard.interval(piece.extents)[0] >= 0


def _shrink(piece: Piece, name: str) -> tuple[Piece, int] | None:
    """Bound one dim by every guard over it alone, and where it now starts; None if nothing is left of it."""
    extent = piece.extents[name]
    low, high = 0, extent - 1
    for g in piece.guards:
        if len(g.terms) != 1 or g.terms[0][0] != name:
            continue
        c = g.terms[0][1]
        if c > 0:
            low = max(low, -(g.const // c))
        else:
            high = min(high, g.const // -c)
    guards = tuple(g for g in piece.guards if not (len(g.terms) == 1 and g.terms[0][0] == name))
    if low > high:
        return None
    shift: dict[str, Affine | int] = {name: Affine.var(name) + low}

    def move(node: Expr) -> Expr:
        if isinstance(node, Read):
            return replace(node, index=tuple(f.substitute(shift) for f in node.index))
        return DimValue(node.form.substitute(shift)) if isinstance(node, DimValue) else node

    def resize(dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(Dim(name, high - low + 1) if d.name == name else d for d in dims)

    rectangle = Piece(
        resize(piece.dims),
        tuple(f.substitute(shift) for f in piece.index),
        rewrite(piece.body, move),
        resize(piece.reduce),
        tuple(g.substitute(shift) for g in guards),
    )
    return rectangle, low


def _select(op: Op, piece: Piece) -> Piece:
    """Guards as conditions on the body: a term that does not exist is the identity."""
    missing = identity(op) if op.monoid else op.fill
    slanted = [g for g in piece.guards if not g.names & {d.name for d in piece.reduce}]
    # A term that is selected away would still be counted, or win where all others are infinite.
    counted = op.monoid in ("moments", "argmax", "argmin")
    if missing is None or counted or (slanted and op.fill != missing):
        raise fail(
            MachineError,
            "E0622",
            f"'{op.name}' is guarded by {', '.join(map(str, piece.guards))}, over several dims at once",
            help="split the piece so that each bound concerns one dim",
        )
    body = rewrite(piece.body, lambda n: replace(n, fill=0) if isinstance(n, Read) and n.fill is None else n)
    for guard in piece.guards:
        body = Call("select", (Call("ge", (DimValue(guard), Const(0))), body, Const(missing)))
    return replace(piece, body=body, guards=())
