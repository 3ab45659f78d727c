"""The contract of groups between ``fuse`` and lowering: what makes ops one program nest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opc.tensor.blocks import chain_problem
from opc.tensor.ir import Function, Op, Piece, Read, Tensor, reads
from opc.tensor.roles import Roles, is_contraction, roles_of

Problem = tuple[Op, str, str]  # where, code, message


def group_problems(f: Function) -> Iterator[Problem]:
    """Every way in which the groups of ``f`` break the contract; nothing before ``fuse``."""
    if all(op.group is None for op in f.ops):
        return
    members: dict[str, list[Op]] = {}
    previous: str | None = None
    for op in f.ops:
        if op.group is None:
            yield op, "E0542", "no group, though other ops have one"
            previous = None
            continue
        if op.group in members and op.group != previous:
            yield op, "E0543", f"group '{op.group}' goes on after other ops"
        members.setdefault(op.group, []).append(op)
        previous = op.group
    for name, ops in members.items():
        if len(ops) > 1:
            yield from _several(name, ops, f.tensors())


def _several(name: str, ops: list[Op], tensors: Mapping[str, Tensor]) -> Iterator[Problem]:
    for op in ops[1:]:
        if op.prepare != ops[0].prepare:
            yield op, "E0544", f"group '{name}' mixes prepare and run"
    filled = [op for op in ops if op.fill is not None]
    for op in filled:
        yield op, "E0545", f"group '{name}' has several ops, so none has a fill; this one has"
    if filled:
        return
    if any(len(op.pieces) > 1 for op in ops):
        yield from _chain(name, ops, tensors)
        return
    found = roles_of(ops)
    if found is not None:
        yield from _around(name, found)
    elif all(op.monoid is None for op in ops[1:]) and (ops[0].monoid is None or is_contraction(ops[0])):
        yield from _aligned(name, ops)
    else:
        yield from _rows(name, ops)


def _chain(name: str, ops: list[Op], tensors: Mapping[str, Tensor]) -> Iterator[Problem]:
    """Ops of several pieces: pointwise without guards, or contractions; each but the first fed by an earlier one."""
    made: set[str] = set()
    sound = True
    for op in ops:
        wrong = None
        if not is_contraction(op) and (op.monoid is not None or any(p.guards for p in op.pieces)):
            wrong = f"in group '{name}', a chain, it is no contraction, but reduces or has guards"
        elif made and not made & {r.tensor for r in reads(op)}:
            wrong = f"it reads nothing that is made in group '{name}', a chain"
        if wrong is not None:
            sound = False
            yield op, "E0545", wrong
        made.update(t.name for t in op.outputs)
    problem = chain_problem(ops, tensors) if sound else None
    if problem is not None:
        yield ops[-1], "E0549", f"group '{name}' is a chain: {problem}"


def _aligned(name: str, ops: list[Op]) -> Iterator[Problem]:
    """Contraction and pointwise groups: one domain, every tensor read where it is written."""
    root = ops[0].pieces[0]
    made: set[str] = {t.name for t in ops[0].outputs}
    for op in ops[1:]:
        piece = op.pieces[0]
        if piece.dims != root.dims:
            yield op, "E0546", f"its dimensions are not those of the first op of group '{name}'"
        elif piece.index != root.index or piece.guards != root.guards:
            yield op, "E0547", f"its output index or guards are not those of the first op of group '{name}'"
        for read in reads(op):
            if read.tensor in made and read.index != root.index:
                yield op, "E0549", f"'{read.tensor}' is made in group '{name}' and read at another element"
        made.update(t.name for t in op.outputs)


def _around(name: str, found: Roles) -> Iterator[Problem]:
    """What feeds a contraction is made anew wherever it is needed; what follows happens where it is written."""
    fed = {t.name for op in found.before for t in op.outputs}
    for op in found.before:
        piece = op.pieces[0]
        if piece.guards or len({f.as_var() for f in piece.index} - {None}) < max(
            len(piece.index), len(piece.dims)
        ):
            yield (
                op,
                "E0547",
                f"it feeds the contraction of group '{name}' and does not write one index per dimension",
            )
    for op in found.after:
        for read in reads(op):
            if read.tensor in fed:
                yield (
                    op,
                    "E0549",
                    f"'{read.tensor}' feeds the contraction of group '{name}' and is read after it",
                )
    root, piece = found.root, found.root.pieces[0]
    plain = [op for op in found.after if op.monoid is None]
    yield from _aligned(name, [root, *plain])
    made = {t.name for op in (root, *plain) for t in op.outputs}
    for op in found.statistics:
        if op.pieces[0].guards != piece.guards:
            yield op, "E0547", f"its guards are not those of the contraction of group '{name}'"
        for read in reads(op):
            if read.tensor in made and read.index != piece.index:
                yield op, "E0549", f"'{read.tensor}' is made in group '{name}' and read at another element"


def _rows(name: str, ops: list[Op]) -> Iterator[Problem]:
    """Row groups: shared parallel dimensions, read as written; further dimensions are free, one per axis."""
    pieces = [op.pieces[0] for op in ops]
    shared = set.intersection(*({d.name for d in p.dims} for p in pieces))
    for op, piece in zip(ops[1:], pieces[1:], strict=True):
        wrong = sorted(n for n in shared if piece.extents[n] != pieces[0].extents[n])
        if wrong:
            yield op, "E0548", f"dimensions {', '.join(wrong)} differ in extent within group '{name}'"
    made: dict[str, Piece] = {}
    for op, piece in zip(ops, pieces, strict=True):
        for read in reads(op):
            writer = made.get(read.tensor)
            if writer is not None and not _same_row(writer, read, shared, piece.extents):
                yield op, "E0549", f"'{read.tensor}' is made in group '{name}' and read in another row"
        made.update((t.name, piece) for t in op.outputs)


def _same_row(writer: Piece, read: Read, shared: set[str], extents: Mapping[str, int]) -> bool:
    if len(writer.index) != len(read.index):
        return False
    for written, index in zip(writer.index, read.index, strict=True):
        if written.names <= shared and written.names:
            if index != written:
                return False
            continue
        rows, inside = index.split(shared)
        theirs, within = written.split(shared)
        if theirs != rows or (within.names and within.as_var() is None):  # one dim numbers what is in a row
            return False
        if rows.terms:  # pieces of an axis: what is read of one lies between its ends
            low, high = inside.interval(extents)
            if low < 0 or high >= min(abs(c) for _, c in rows.terms):
                return False
    return True
