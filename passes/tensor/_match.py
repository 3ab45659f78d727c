"""Bringing an op onto the dimensions of a group it may join.

Each function returns the op over the group's dimensions, or None if it does not fit. The group's ops
write every element of their outputs exactly once, so a written index is a bijection between the group's
(guarded) domain and the tensor; that makes the substitutions here sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

from opc.affine import Affine
from opc.tensor.ir import Dim, Expr, Op, Piece, Read, reads, rewrite
from passes.tensor._algebra import apply_to_piece, expr_reads, fresh

Index = tuple[Affine, ...]
Shapes = Mapping[str, tuple[int, ...]]
Written = Mapping[str, Index]  # tensor of the group -> index at which the group writes it


def join_domain(op: Op, leader: Op, written: Written, shapes: Shapes) -> Op | None:
    """``op``, pointwise and reading ``written`` tensors, over the domain of ``leader``."""
    read = next(r for r in reads(op) if r.tensor in written)
    values = _match(read.index, written[read.tensor], shapes[read.tensor], op.pieces[0], leader.pieces[0])
    return None if values is None else _onto_domain(op, values, leader.pieces[0], written)


def feed_domain(op: Op, leader: Op, read: Read) -> Op | None:
    """``op``, pointwise and writing the tensor that the group reads by ``read``, over ``leader``'s domain."""
    piece, shape = leader.pieces[0], op.outputs[0].shape
    if read.index != piece.index or shape != leader.outputs[0].shape:
        return None
    values = _match(op.pieces[0].index, read.index, shape, op.pieces[0], piece)
    return None if values is None else _onto_domain(op, values, piece, {})


def join_reduction(op: Op, leader: Op, written: Written, shapes: Shapes) -> Op | None:
    """``op``, which reduces what it reads of ``written`` tensors, over the dimensions of ``leader``."""
    own, domain = op.pieces[0], leader.pieces[0]
    whole = replace(own, dims=(*own.dims, *own.reduce), reduce=())
    read = next(r for r in reads(op) if r.tensor in written)
    values = _match(read.index, written[read.tensor], shapes[read.tensor], whole, domain)
    if values is None or values.keys() != _names(whole.dims):
        return None
    kept = {name for d in own.dims for name in values[d.name].names}
    over = {name for d in own.reduce for name in values[d.name].names}
    moved = apply_to_piece(own, values, tuple(d for d in domain.dims if d.name in kept))
    if kept & over or kept | over != _names(domain.dims):
        return None
    if any(r.tensor in written and r.index != written[r.tensor] for r in expr_reads(moved.body)):
        return None
    if any(g.names & over for g in domain.guards):
        return None
    reduce = tuple(d for d in domain.dims if d.name in over)
    moved = replace(_without_fills(moved, written), guards=domain.guards, reduce=reduce)
    return replace(op, pieces=(moved,))


def join_rows(
    op: Op, shared: tuple[Dim, ...], written: Written, shapes: Mapping[str, tuple[int, ...]]
) -> Op | None:
    """``op``, reading ``written`` tensors, with the group's ``shared`` dimensions beside its own."""
    read = next(r for r in reads(op) if r.tensor in written)
    values = _rows_of(op, shared, read.index, written[read.tensor], shapes[read.tensor])
    return None if values is None else _onto_rows(op, values, shared, written)


def _rows_of(
    op: Op, shared: tuple[Dim, ...], index: Index, goal: Index, shape: tuple[int, ...]
) -> dict[str, Affine] | None:
    """What the parallel dims of ``op`` must be for ``index`` to be in the row of ``goal``."""
    piece = op.pieces[0]
    own = [f.split(_names(piece.dims))[0] for f in index]
    theirs = [f.split(_names(shared))[0] for f in goal]
    axes = [a for a, form in enumerate(theirs) if form.terms]
    return _match(
        tuple(own[a] for a in axes), tuple(theirs[a] for a in axes), tuple(shape[a] for a in axes),
        piece, Piece(shared, (), piece.body),
    )  # fmt: skip


def feed_rows(op: Op, shared: tuple[Dim, ...], read: Read) -> Op | None:
    """``op``, writing the tensor that a group reads by ``read``, over ``shared`` and its own dims."""
    extents = {d.name: d.extent for d in shared}
    axes = [a for a, form in enumerate(read.index) if form.names & extents.keys()]
    own = op.pieces[0]
    values: dict[str, Affine] = {}
    for axis in axes:
        pair = _row_of(own, own.index[axis], read.index[axis], op.outputs[0].shape[axis], extents)
        if pair is None or values.setdefault(*pair) != pair[1]:
            return None
    return _onto_rows(op, values, shared, {})


def _row_of(
    own: Piece, written: Affine, form: Affine, extent: int, shared: Mapping[str, int]
) -> tuple[str, Affine] | None:
    """The dim of ``own`` that numbers rows along an axis, and the shared one that it must be: each runs over the whole
    axis, or over all pieces of it, so that the rows together are the tensor.
    """
    name, goal = written.as_var(), form.as_var()
    if name is not None and goal is not None:
        return (name, form) if own.extents[name] == shared.get(goal) == extent else None
    part, _ = form.split(shared)
    if len(part.terms) != 1 or form.const != written.const:
        return None
    goal, step = part.terms[0]
    name = next((n for n, c in written.terms if c == step and own.extents.get(n) == shared[goal]), None)
    rest = Affine(tuple(t for t in written.terms if t[0] != name))
    if name is None or step * shared[goal] != extent or rest.interval(own.extents) != (0, step - 1):
        return None
    return name, Affine.var(goal)


def beside_rows(
    op: Op, shared: tuple[Dim, ...], group: Iterable[Op], shapes: Mapping[str, tuple[int, ...]]
) -> Op | None:
    """``op``, which reads a tensor that the group reads, over the same rows of it."""
    known = {r.tensor: r.index for member in group for r in reads(member)}
    for read in reads(op):
        goal, shape = known.get(read.tensor), shapes[read.tensor]
        values = _rows_of(op, shared, read.index, goal, shape) if goal is not None else None
        moved = _onto_rows(op, values, shared, {}) if values is not None else None
        if moved is not None:
            return moved
    return None


def same_rows(read: Read, index: Index, shared: tuple[Dim, ...], extents: Mapping[str, int]) -> bool:
    """Whether ``read``, over dims of these extents, stays in the row that its group iteration writes at ``index``."""
    names = _names(shared)
    for form, want in zip(read.index, index, strict=True):
        if want.names and want.names <= names:
            if form != want:
                return False
            continue
        mine, inside = form.split(names)
        theirs, within = want.split(names)
        if mine != theirs or (within.names and within.as_var() is None):  # one dim numbers what is in a row
            return False
        # Pieces of an axis: what is read of one lies between its ends.
        low, high = inside.interval(extents) if mine.terms else (0, 0)
        if mine.terms and not 0 <= low <= high < min(abs(c) for _, c in mine.terms):
            return False
    return True


def _names(dims: Iterable[Dim]) -> frozenset[str]:
    return frozenset(d.name for d in dims)


def _match(
    index: Index, target: Index, shape: tuple[int, ...], own: Piece, group: Piece
) -> dict[str, Affine] | None:
    """What the parallel dims of ``own`` must be for ``index`` to be ``target``, axis by axis."""
    have = {d.name: d.extent for d in own.dims}
    want = {d.name: d.extent for d in group.dims}
    values: dict[str, Affine] = {}
    for form, goal, extent in zip(index, target, shape, strict=True):
        pairs = _match_form(form, goal, extent, have, want)
        if pairs is None or any(values.setdefault(name, to) != to for name, to in pairs):
            return None
    return values


def _match_form(
    form: Affine, goal: Affine, extent: int, have: Mapping[str, int], want: Mapping[str, int]
) -> list[tuple[str, Affine]] | None:
    name = form.as_var()
    if name is not None:
        # The dimension runs over the axis exactly as the goal does: all of it, once; a part of a goal does not.
        reached = prod(want[n] for n in goal.names if n in want)
        return [(name, goal)] if have.get(name) == extent <= reached else None
    if form.const != goal.const or len(form.terms) != len(goal.terms):
        return None
    pairs: list[tuple[str, Affine]] = []
    terms = zip(_by_coefficient(form, have), _by_coefficient(goal, want), strict=True)
    for (c, size, mine), (goal_c, goal_size, theirs) in terms:
        if (c, size) != (goal_c, goal_size):
            return None
        pairs.append((mine, Affine.var(theirs)))
    return pairs


def _by_coefficient(form: Affine, extents: Mapping[str, int]) -> list[tuple[int, int, str]]:
    return sorted((c, extents.get(name, -1), name) for name, c in form.terms)


def _onto_domain(op: Op, values: Mapping[str, Affine], leader: Piece, written: Written) -> Op | None:
    piece = op.pieces[0]
    if values.keys() != _names(piece.dims):
        return None
    moved = apply_to_piece(piece, values, leader.dims)
    if moved.guards and set(moved.guards) != set(leader.guards):
        return None
    if any(r.tensor in written and r.index != written[r.tensor] for r in expr_reads(moved.body)):
        return None
    return replace(op, pieces=(replace(_without_fills(moved, written), guards=leader.guards),))


def _onto_rows(op: Op, values: Mapping[str, Affine], shared: tuple[Dim, ...], written: Written) -> Op | None:
    piece, names = op.pieces[0], _names(shared)
    covered = [name for form in values.values() for name in form.names]
    if piece.guards or sorted(covered) != sorted(names):
        return None
    # Own dimensions must not capture the names of the shared ones.
    taken = names | _names(piece.dims) | _names(piece.reduce)
    own = {d.name: fresh(d.name, taken) if d.name in names else d.name for d in (*piece.dims, *piece.reduce)}
    everything = {**{name: Affine.var(new) for name, new in own.items()}, **values}
    rest = tuple(Dim(own[d.name], d.extent) for d in piece.dims if d.name not in values)
    reduce = tuple(Dim(own[d.name], d.extent) for d in piece.reduce)
    moved = apply_to_piece(replace(piece, reduce=reduce), everything, (*shared, *rest))
    result = replace(op, pieces=(moved,))
    inner = [r for r in reads(result) if r.tensor in written]
    extents = moved.extents
    return result if all(same_rows(r, written[r.tensor], shared, extents) for r in inner) else None


def _without_fills(piece: Piece, written: Written) -> Piece:
    """Reads at an index that was written are inside."""

    def leaf(node: Expr) -> Expr:
        return replace(node, fill=None) if isinstance(node, Read) and node.tensor in written else node

    return replace(piece, body=rewrite(piece.body, leaf))
