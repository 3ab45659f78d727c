"""Ops on one block of their dimensions: what is made and used inside a block shrinks to the box the block writes.

The mechanism behind tile-local intermediates. A block's position may be a form of loop variables; those are then
free names of the index forms, which the nests that lower ops carry along.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.tensor.ir import Call, Dim, DimValue, Expr, Op, Piece, Read, Tensor, reads, rewrite, walk


@dataclass(frozen=True, slots=True)
class Block:
    """Part of a dimension: its first index, its size, and how far apart its indices are."""

    base: Affine
    size: int
    step: int = 1

    def form(self, name: str) -> Affine:
        """The whole dimension's index in terms of the block's own dimension ``name``."""
        return self.base + (Affine.var(name, self.step) if self.size > 1 else 0)


Blocks = Mapping[str, Block]
Index = tuple[Affine, ...]


@dataclass
class Restriction:
    """``ops`` on one block; ``made`` are the tensors that live in it, ``tensors`` has their new shapes."""

    tensors: dict[str, Tensor]
    made: Collection[str]

    def __post_init__(self) -> None:
        self.origin: dict[str, Index] = {}

    def apply(self, ops: Sequence[Op], blocks: Blocks) -> tuple[Op, ...]:
        """Every op on its part of the block, in order; ops with nothing left are dropped."""
        found = (self._op(op, {**blocks, **self._follow(op)}) for op in ops)
        return tuple(op for op in found if op.pieces)

    def _follow(self, op: Op) -> dict[str, Block]:
        """Dimensions that alone index an axis of a tensor of the block run over what the block has of it."""
        found: dict[str, Block] = {}
        for read in reads(op):
            for form, at, extent in zip(
                read.index, self.origin.get(read.tensor, ()), self.tensors[read.tensor].shape, strict=False
            ):
                name = form.as_var()
                if name is not None:
                    found[name] = Block(at, extent)
        return found

    def _op(self, op: Op, blocks: Blocks) -> Op:
        pieces = [p for p in (cut(piece, blocks) for piece in op.pieces) if p is not None]
        pieces = [replace(p, body=rewrite(p.body, self._local)) for p in pieces]
        outputs = list(op.outputs)
        for i, out in enumerate(outputs):
            if out.name in self.made and pieces:
                origin, shape = _hull(pieces)
                self.origin[out.name] = origin
                outputs[i] = self.tensors[out.name] = replace(out, shape=shape)
                pieces = [replace(p, index=_minus(p.index, origin)) for p in pieces]
        return replace(op, outputs=tuple(outputs), pieces=tuple(pieces))

    def _local(self, node: Expr) -> Expr:
        origin = self.origin.get(node.tensor) if isinstance(node, Read) else None
        if origin is None or not isinstance(node, Read):
            return node
        return replace(node, index=_minus(node.index, origin))


def chain_problem(ops: Sequence[Op], tensors: Mapping[str, Tensor]) -> str | None:
    """Why ops cannot run row by row, a row being one index of every dimension that all pointwise pieces have; None if
    each reads, of what others make, only what they make in the same row.
    """
    rows = shared_dims(ops)
    made = {t.name for op in ops for t in op.outputs}
    row = Restriction({**tensors, **{t.name: t for op in ops for t in op.outputs}}, made)
    blocks = {d.name: Block(Affine.var(f"{d.name}."), 1) for d in rows}
    if not rows:
        return "no dimension is shared"
    for op in row.apply([_reads_only(op) for op in ops], blocks):
        for piece in op.pieces:
            for node in expr_reads(piece.body):
                if node.tensor not in row.origin:
                    continue
                shape = row.tensors[node.tensor].shape
                if node.fill is not None or not all(
                    _within(f, e, piece) for f, e in zip(node.index, shape, strict=True)
                ):
                    return f"'{node.tensor}' is read in another row"
    return None


def _reads_only(op: Op) -> Op:
    """The op with nothing but its reads in its bodies, each once: all that decides where it may run."""

    def bare(p: Piece) -> Piece:
        return replace(p, body=Call("reads", tuple(dict.fromkeys(expr_reads(p.body)))))

    return replace(op, pieces=tuple(bare(p) for p in op.pieces))


def shared_dims(ops: Sequence[Op]) -> list[Dim]:
    """The dimensions that all pointwise pieces have by name and no op reduces, slowest first: the rows."""
    pieces = [p for op in ops if op.monoid is None for p in op.pieces]
    common = set.intersection(*({d.name for d in p.dims} for p in pieces)) if pieces else set()
    common -= {d.name for op in ops for p in op.pieces for d in p.reduce}
    return [Dim(d.name, max(p.extents[d.name] for p in pieces)) for d in pieces[0].dims if d.name in common]


def _within(form: Affine, extent: int, piece: Piece) -> bool:
    if not form.names <= piece.extents.keys():
        return False
    low, high = form.interval(piece.extents)
    return low >= 0 and high < extent


def expr_reads(body: Expr) -> list[Read]:
    """The reads of an expression, in order."""
    return [node for node in walk(body) if isinstance(node, Read)]


def _substitute(body: Expr, values: Mapping[str, Affine | int]) -> Expr:
    def leaf(node: Expr) -> Expr:
        if isinstance(node, Read):
            return replace(node, index=tuple(f.substitute(values) for f in node.index))
        return DimValue(node.form.substitute(values)) if isinstance(node, DimValue) else node

    return rewrite(body, leaf)


def cut(piece: Piece, blocks: Blocks) -> Piece | None:
    """The piece on a block; None if it has nothing there. A block at a variable position lies inside the piece."""
    values: dict[str, Affine | int] = {}
    dims = []
    for d in piece.dims:
        block = blocks.get(d.name)
        if block is None:
            dims.append(d)
            continue
        left = -(-(d.extent - block.base.const) // block.step)
        size = min(block.size, left) if block.base.is_const else block.size
        if size <= 0:
            return None
        if size > 1:
            dims.append(Dim(d.name, size))
        values[d.name] = replace(block, size=size).form(d.name)
    body = _substitute(piece.body, values)
    index, guards = (tuple(f.substitute(values) for f in forms) for forms in (piece.index, piece.guards))
    return replace(piece, dims=tuple(dims), index=index, body=body, guards=guards)


def _hull(pieces: Sequence[Piece]) -> tuple[Index, tuple[int, ...]]:
    """First index and extent of the box that the pieces write."""
    origin, shape = [], []
    for axis in range(len(pieces[0].index)):
        low, high, base = 0, 0, Affine()
        for i, p in enumerate(pieces):
            local, rest = p.index[axis].split(p.extents)
            least, most = (bound + rest.const for bound in local.interval(p.extents))
            low, high = (least, most) if i == 0 else (min(low, least), max(high, most))
            base = rest - rest.const
        origin.append(base + low)
        shape.append(high - low + 1)
    return tuple(origin), tuple(shape)


def _minus(index: Index, origin: Index) -> Index:
    return tuple(f - o for f, o in zip(index, origin, strict=True))
