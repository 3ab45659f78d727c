"""Groups whose ops go over the same rows together, block by block, so that each operand is read once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.tensor.ir import Dim, Op, Read, reads
from opc.tensor.roles import MERGED
from passes.tensor._algebra import apply_to_piece

Round = tuple[tuple[Op, ...], tuple[Op, ...]]


@dataclass(frozen=True)
class Together:
    """``ops`` with one name for each of the dims ``walked``, which every op that has rows goes over. In each round
    some ops run once, and then others go over the rows; a round finds the reductions of earlier ones complete.
    """

    ops: tuple[Op, ...]
    walked: tuple[Dim, ...]
    rounds: tuple[Round, ...]


def together(ops: tuple[Op, ...], shared: Collection[str]) -> Together | None:
    """How the ops of a group go together over the dims that are not ``shared``; None if they cannot."""
    done: dict[str, Op] = {}
    levels: dict[str, int] = {}
    walked: tuple[Dim, ...] = ()
    for op in ops:
        names = _names(op, done, walked, shared)
        if names is None:
            return None
        moved = _renamed(op, names)
        own = _own(moved, shared)
        level = _level(moved, done, levels, shared)
        if level is None or (own and walked and set(own) != set(walked)) or not _all_or_none(moved, own):
            return None
        walked = walked or own
        for t in moved.outputs:
            done[t.name], levels[t.name] = moved, level
    found = tuple(dict.fromkeys(done.values()))
    if not walked or not any(op.monoid for op in found):
        return None
    at = {op: levels[op.outputs[0].name] for op in found}
    rounds = [tuple(op for op in found if at[op] == n) for n in range(max(at.values()) + 1)]
    return Together(found, walked, tuple(_apart(some, shared) for some in rounds))


def _apart(ops: tuple[Op, ...], shared: Collection[str]) -> Round:
    rows = tuple(op for op in ops if _own(op, shared))
    return tuple(op for op in ops if op not in rows), rows


def _own(op: Op, shared: Collection[str]) -> tuple[Dim, ...]:
    piece = op.pieces[0]
    return tuple(d for d in (*piece.dims, *piece.reduce) if d.name not in shared)


def _all_or_none(op: Op, own: tuple[Dim, ...]) -> bool:
    """Whether an op reduces all of its rows, or none."""
    return not op.monoid or (op.monoid in MERGED and set(op.pieces[0].reduce) == set(own))


def _level(op: Op, done: Mapping[str, Op], levels: Mapping[str, int], shared: Collection[str]) -> int | None:
    """The round in which an op can run; None if it reads rows that only an earlier round makes."""
    names = [n for n in dict.fromkeys(r.tensor for r in reads(op)) if n in done]
    level = max((levels[n] + bool(done[n].monoid) for n in names), default=0)
    rows = [n for n in names if not done[n].monoid and _own(done[n], shared)]
    return level if all(levels[n] == level for n in rows) else None


def _names(
    op: Op, done: Mapping[str, Op], walked: tuple[Dim, ...], shared: Collection[str]
) -> dict[str, str] | None:
    """New names for the rows of an op: those of what it reads of the group, else the walked dims in order."""
    own = _own(op, shared)
    names: dict[str, str] = {}
    for read in reads(op):
        pairs = _pairs(read, done[read.tensor], shared) if read.tensor in done else {}
        if pairs is None or any(names.setdefault(n, to) != to for n, to in pairs.items()):
            return None
    if not names and walked:
        return {d.name: w.name for d, w in zip(own, walked, strict=len(own) == len(walked))}
    complete = not walked or {d.name for d in own} == names.keys()
    return names if complete and len(set(names.values())) == len(names) else None


def _pairs(read: Read, made: Op, shared: Collection[str]) -> dict[str, str] | None:
    """By row dim of the reader the one of the op that makes what it reads; None where one is not simply the other."""
    pairs: dict[str, str] = {}
    for form, written in zip(read.index, made.pieces[0].index, strict=True):
        mine, theirs = form.split(shared)[1], written.split(shared)[1]
        if not mine.terms and not theirs.terms and mine == theirs:
            continue
        name, to = mine.as_var(), theirs.as_var()
        if name is None or to is None or pairs.setdefault(name, to) != to:
            return None
    return pairs


def _renamed(op: Op, names: Mapping[str, str]) -> Op:
    piece = op.pieces[0]
    dims, over = (
        tuple(Dim(names.get(d.name, d.name), d.extent) for d in some) for some in (piece.dims, piece.reduce)
    )
    values = {n: Affine.var(to) for n, to in names.items()}
    return replace(op, pieces=(replace(apply_to_piece(piece, values, dims), reduce=over),))
