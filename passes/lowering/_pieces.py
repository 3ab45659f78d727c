"""Lowering of pointwise ops of several pieces: all that ops and pieces have in common, computed once per point.

The ops of a nest share parallel dimensions. For every point of those (a vector of it along the lanes) each op runs once
over its other dimensions, and at each of their positions all of its pieces are evaluated together: operands and
subexpressions that pieces share exist once. What one op hands to the next lies in a scratch array of one point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise

from opc.affine import Affine
from opc.tensor.blocks import Block, Restriction
from opc.tensor.ir import Dim, Op, Piece, Read, Tensor
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._expr import Evaluator, Value
from passes.lowering._row_plan import lane_dim
from passes.lowering._stage import Reading, Slab, stage_together
from passes.lowering._store import store
from passes.tensor._algebra import expr_reads

Tiles = dict[str, Tile]


@dataclass
class PieceNest:
    """Emits pointwise ops. ``stored`` names the outputs that leave them."""

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    staged: dict[str, Slab] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = [p for op in self.ops for p in op.pieces]
        common = set.intersection(*({d.name for d in p.dims} for p in every))
        self.extents = {
            d.name: max(q.extents[d.name] for q in every) for p in every for d in p.dims if d.name in common
        }
        lane = lane_dim(self.ops[-1], self.tensors, frozenset())
        self.lane = lane if lane in common else None
        self.lanes = self.emit.machine.vector_bytes // self.ops[0].outputs[0].dtype.compute.bytes
        self.shared = [Dim(n, e) for n, e in self.extents.items() if n != self.lane]
        self.made = {t.name for op in self.ops for t in op.outputs} - self.stored

    @property
    def spread(self) -> str:
        """The dimension whose blocks would go to different cores."""
        wide = [d for d in self.shared if d.extent > 1]
        return max(wide, key=lambda d: min(d.extent, 16)).name if wide else ""

    def run(self) -> None:
        """Emit the whole nest, spread over cores."""
        self.emit.line = self.ops[0].line
        first = [d for d in self.shared if d.name == self.spread]
        rest = [d for d in self.shared if d.name != self.spread]
        if first:
            self.inside([*first, *rest], {}, parallel=True)
            return
        with self.emit.loop("one", 1, parallel=True):
            self.inside(rest, {})

    def inside(self, dims: list[Dim], tiles: Tiles, parallel: bool = False) -> None:
        """Emit the loops over ``dims``, outermost first, and then along the lanes."""
        if not parallel:  # memory on chip belongs to one core
            self._stage(tiles)
        before = dict(self.staged)
        if dims:
            for tile in self._steps(dims[0], 1, parallel):
                self.inside(dims[1:], {**tiles, dims[0].name: tile})
                self.staged = dict(before)
            return
        if self.lane is None:
            self._point(tiles)
            return
        for tile in self._steps(Dim(self.lane, self.extents[self.lane]), self.lanes, False):
            self._point({**tiles, self.lane: tile})

    def _steps(self, d: Dim, size: int, parallel: bool) -> Iterator[Tile]:
        """Blocks of a dimension; where some pieces end early, what is left goes round by itself."""
        ends = sorted({p.extents[d.name] for op in self.ops for p in op.pieces})
        for low, high in pairwise([0, *ends]):
            for tile in self.emit.tiles(d.name, high - low, size, parallel):
                yield Tile(tile.base + low, tile.size, tile.order)

    def _stage(self, tiles: Tiles) -> None:
        """Stage what is read past an edge, once for all dimensions without a tile, as soon as that fits."""
        at: dict[str, Affine | int] = {n: t.base for n, t in tiles.items()}
        found: dict[str, list[Reading]] = {}
        for piece in (p for op in self.ops for p in op.pieces):
            extents = {n: e for n, e in piece.extents.items() if n not in tiles}
            for read in expr_reads(piece.body):
                if read.tensor not in self.staged:
                    moved = replace(read, index=tuple(f.substitute(at) for f in read.index))
                    found.setdefault(read.tensor, []).append((moved, extents))
        padded = {n: rs for n, rs in found.items() if any(r.fill is not None for r, _ in rs)}
        room = self.emit.machine.role("stage").capacity // 2 // max(1, len(padded))
        for (
            name,
            readings,
        ) in padded.items():  # all reads of the tensor: whoever stays inside it reads the copy too
            fills = {r.fill for r, _ in readings} - {None}
            slab = (
                stage_together(self.emit, readings, self.tensors[name], room, fills.pop())
                if len(fills) == 1
                else None
            )
            if slab is not None:
                self.staged[name] = slab

    def _point(self, tiles: Tiles) -> None:
        """All ops at one point."""
        tensors = dict(self.tensors)
        here = Restriction(tensors, self.made)
        blocks = {n: Block(t.base, t.size) for n, t in tiles.items()}
        ops = here.apply([self._present(op, tiles) for op in self.ops], blocks)
        local: dict[str, Tensor] = {}
        for op in ops:
            self.emit.line = op.line
            out = op.outputs[0]
            if out.name in self.made:
                name = self.emit.local(out.name, out.dtype, out.shape, "scratch")
                local[out.name] = tensors[out.name] = replace(tensors[out.name], name=name, order=None)
            self._op(op, tiles, tensors)

    def _present(self, op: Op, tiles: Tiles) -> Op:
        """The pieces that exist at this point."""

        def there(p: Piece) -> bool:
            return all(tiles[d.name].base.const < d.extent for d in p.dims if d.name in tiles)

        return replace(op, pieces=tuple(p for p in op.pieces if there(p)))

    def _op(self, op: Op, tiles: Tiles, tensors: dict[str, Tensor]) -> None:
        """One op: loops over the dimensions it has to itself, then its pieces together."""
        for own, pieces in groupby(op.pieces, key=lambda p: tuple(d for d in p.dims if d.name != self.lane)):
            self._loops(list(own), {}, list(pieces), op, tensors)

    def _loops(
        self, dims: list[Dim], at: dict[str, Affine], pieces: list[Piece], op: Op, tensors: dict[str, Tensor]
    ) -> None:
        if dims:
            with self.emit.loop(f"{dims[0].name}_o", dims[0].extent) as var:
                self._loops(dims[1:], {**at, dims[0].name: var}, pieces, op, tensors)
            return
        lanes = [d for d in pieces[0].dims if d.name == self.lane]
        frame = Frame(
            tuple(Axis(d.name, ((d.name, d.extent),)) for d in lanes),
            {**at, **{d.name: Affine() for d in lanes}},
        )
        out = tensors[op.outputs[0].name]
        ev = Evaluator(self.emit, frame, lambda read: self._load(ev, read, tensors))
        for piece, value in zip(pieces, ev.values([p.body for p in pieces]), strict=True):
            store(ev, value, piece, out)

    def _load(self, ev: Evaluator, read: Read, tensors: dict[str, Tensor]) -> Value:
        tensor = tensors[read.tensor]
        forms = [ev.frame.global_form(f) for f in read.index]
        slab = self.staged.get(read.tensor)
        if slab is not None:
            return ev.dense(slab.at(forms), ev.frame.used(forms), tensor.dtype, None)
        return ev.dense(memory_access(tensor, forms), ev.frame.used(forms), tensor.dtype, read.fill)


def overlapping(op: Op) -> bool:
    """Whether the pieces of a pointwise op have the same dimensions and read some of the same elements."""
    if (
        len(op.pieces) == 1
        or op.fill is not None
        or op.monoid is not None
        or any(p.guards for p in op.pieces)
    ):
        return False
    first, *rest = ({d.name for d in p.dims} for p in op.pieces)
    reads = [r for p in op.pieces for r in set(expr_reads(p.body))]
    return all(names == first for names in rest) and len(reads) > len(set(reads))
