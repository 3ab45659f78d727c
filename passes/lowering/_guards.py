"""Guards resolved before tiling: bounds on one dim shrink it, others become a select.

A nest then only has rectangular domains, and a skipped term contributes the monoid's identity.
"""

from __future__ import annotations

from dataclasses import replace
from math import isinf

from opc.affine import Affine
from opc.errors import MachineError, fail
from opc.scalar import MONOIDS
from opc.tensor.ir import Call, Const, Dim, DimValue, Expr, Op, Piece, Read, rewrite


def without_guards(op: Op) -> list[Op]:
    """Single-piece ops with rectangular domains that write what the op writes; none if its domain is empty.

    Raises MachineError E0622 where a slanted guard leaves elements to another value than the op can give.
    """
    piece = op.pieces[0]
    reduced = {d.name for d in piece.reduce}
    for guard in piece.guards:
        if len(guard.terms) != 1:
            continue
        name = guard.terms[0][0]
        shrunk = _shrink(piece, name)
        if shrunk is None:
            return _without_terms(op, piece) if name in reduced else []
        piece = shrunk
    rest = tuple(g for g in piece.guards if not _always(g, piece))
    if not rest:
        return [replace(op, pieces=(replace(piece, guards=()),))]
    return [replace(op, pieces=(_select(op, replace(piece, guards=rest)),))]


def identity(op: Op) -> float | int:
    """The value of the op's reduction over no terms, in the type it runs in."""
    assert op.monoid is not None
    value = MONOIDS[op.monoid].identity
    if not isinf(value) or (op.accumulate or op.outputs[0].dtype).is_float:
        return value
    return -(2**31) if value < 0 else 2**31 - 1


def _without_terms(op: Op, piece: Piece) -> list[Op]:
    """Constants for a reduction whose guards leave no term: the identity, index 0, moments of nothing."""
    value = 0 if op.monoid in ("argmax", "argmin", "moments") else identity(op)
    reduced = {d.name for d in piece.reduce}
    guards = tuple(g for g in piece.guards if not g.names & reduced)
    body = Piece(piece.dims, piece.index, Const(value), (), guards)
    found: list[Op] = []
    for out in op.outputs:
        found += without_guards(replace(op, outputs=(out,), pieces=(body,), monoid=None, accumulate=None))
    return found


def _always(guard: Affine, piece: Piece) -> bool:
    return guard.interval(piece.extents)[0] >= 0


def _shrink(piece: Piece, name: str) -> Piece | None:
    """Bound one dim by every guard over it alone; None if nothing is left of a parallel dim."""
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

    return Piece(
        resize(piece.dims),
        tuple(f.substitute(shift) for f in piece.index),
        rewrite(piece.body, move),
        resize(piece.reduce),
        tuple(g.substitute(shift) for g in guards),
    )


def _select(op: Op, piece: Piece) -> Piece:
    """Guards as conditions on the body: a term that does not exist is the identity."""
    missing = identity(op) if op.monoid else op.fill
    slanted = [g for g in piece.guards if not g.names & {d.name for d in piece.reduce}]
    if missing is None or op.monoid == "moments" or (slanted and op.fill != missing):
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
