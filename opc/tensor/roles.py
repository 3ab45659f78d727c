"""Groups around a contraction: what is done to an operand on its way in, and to the result while it is on chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Op, Read

# Reductions whose parts can be merged in any tree.
MERGED = frozenset({"sum", "max", "min", "moments"})


@dataclass(frozen=True, slots=True)
class Roles:
    """``before``: pointwise ops that make an operand of ``root``, the contraction, each element wherever it is needed;
    others may read the operand too, which is then stored.
    ``after``: pointwise ops on its result, and reductions of it over everything that only one operand has
    (``statistics``).
    """

    before: tuple[Op, ...]
    root: Op
    after: tuple[Op, ...]

    @property
    def statistics(self) -> tuple[Op, ...]:
        """The reductions among what follows the contraction."""
        return tuple(op for op in self.after if op.monoid is not None)

    @property
    def inside(self) -> tuple[Op, ...]:
        """The contraction and what happens on its tiles."""
        return (self.root, *self.after)


def roles_of(ops: Sequence[Op]) -> Roles | None:
    """The roles of a group's ops if it has a contraction of rows and columns, and ops that feed or summarise it."""
    at = next((i for i, op in enumerate(ops) if has_rows_and_columns(op)), None)
    if at is None or any(len(op.pieces) > 1 for op in ops):
        return None
    before, root, after = tuple(ops[:at]), ops[at], tuple(ops[at + 1 :])
    fits = all(op.monoid is None or summarises(op, root) for op in after)
    if any(op.monoid is not None for op in before) or not fits:
        return None
    return Roles(before, root, after) if before or any(op.monoid for op in after) else None


def summarises(op: Op, root: Op) -> bool:
    """Whether ``op`` reduces over dimensions of the contraction ``root`` and keeps the others."""
    piece, own = op.pieces[0], root.pieces[0]
    return op.monoid in MERGED and {*piece.dims, *piece.reduce} == set(own.dims)


def is_contraction(op: Op) -> bool:
    """A sum over reduced dimensions of a product of two reads, casts allowed, where some parallel
    dimension indexes only one of them: a sum of squares has rows, but nothing to contract.
    """
    if op.monoid != "sum" or len(op.pieces) != 1 or not op.pieces[0].reduce:
        return False
    body = op.pieces[0].body
    if not (isinstance(body, Call) and body.fn == "mul"):
        return False
    indexed = [_read_names(arg) for arg in body.args]
    if None in indexed:
        return False
    return any(len([names for names in indexed if names and d.name in names]) == 1 for d in op.pieces[0].dims)


def has_rows_and_columns(op: Op) -> bool:
    """Whether ``op`` is a contraction with dimensions of either operand alone, and no others but a batch's."""
    if not is_contraction(op) or op.fill is not None:
        return False
    piece = op.pieces[0]
    first, second = (_read_names(arg) or frozenset() for arg in piece.body.args)  # type: ignore[union-attr]
    indexed = [(d.name in first, d.name in second) for d in piece.dims]
    reduced = {d.name for d in piece.reduce}
    return (
        (True, False) in indexed
        and (False, True) in indexed
        and (False, False) not in indexed
        and bool(reduced & first & second)
        and not any(g.names & reduced for g in piece.guards)
    )


def _read_names(expr: object) -> frozenset[str] | None:
    """Dimensions that index the read under casts; None if it is something else."""
    while isinstance(expr, Call) and expr.fn in FUNCTIONS and FUNCTIONS[expr.fn].kind == "cast" and expr.args:
        expr = expr.args[0]
    return frozenset(n for form in expr.index for n in form.names) if isinstance(expr, Read) else None
