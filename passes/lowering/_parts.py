"""Parts of reductions that are made from a slab of a contraction's results while they are near."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from opc.tensor.ir import Dim, Op, Piece, Tensor
from passes.lowering._emit import Emitter, Tile
from passes.lowering._plan import Shape
from passes.lowering._rows import RowNest
from passes.tensor._algebra import apply_to_piece


@dataclass(frozen=True)
class Parts:
    """``ops`` reduce some of the row dims of ``shape`` and keep the others; what they read has been stored. A part
    adds up its terms in the same order wherever it is made.
    """

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    shape: Shape

    def inside(self, sizes: Mapping[str, int]) -> bool:
        """Whether slabs of these sizes hold parts as a whole."""
        return all(sizes.get(d.name, 1) == d.extent for op in self.ops for d in op.pieces[0].reduce)

    def block(self, tiles: Mapping[str, Tile]) -> None:
        """All parts of a slab, for a block of columns. ``tiles`` has every dim but those of the sum."""
        for op in self.ops:
            self.emit.line = op.line
            over = {d.name for d in op.pieces[0].reduce}
            rows = [d for d in self.shape.m if d.name not in over]
            kept = {name: t for name, t in tiles.items() if name not in over}
            self._rows(op, rows, kept)

    def _rows(self, op: Op, dims: list[Dim], tiles: dict[str, Tile]) -> None:
        if not dims:
            RowNest(self.emit, (op,), self.tensors, self.stored).here(tiles)
            return
        tile = tiles[dims[0].name]
        with self.emit.loop(f"{dims[0].name}_o", tile.size) as var:
            self._rows(op, dims[1:], {**tiles, dims[0].name: Tile(tile.base + var, 1, tile.order + var)})

    def apart(self, ragged: int | None) -> None:
        """All parts, in loops of their own. ``ragged``: columns of the last block where a guard leaves fewer."""
        for op in self.ops:
            self.emit.line = op.line
            for piece in _rectangles(op.pieces[0], self.shape.n, ragged):
                RowNest(self.emit, (replace(op, pieces=(piece,)),), self.tensors, self.stored).run()


def _rectangles(piece: Piece, columns: tuple[Dim, ...], ragged: int | None) -> Iterator[Piece]:
    """The whole blocks of columns, and what the last has."""
    if ragged is None:
        yield piece
        return
    block, inner = columns[-2:]
    extents = {**piece.extents, block.name: block.extent - 1}
    if block.extent > 1:
        yield replace(piece, dims=tuple(Dim(d.name, extents[d.name]) for d in piece.dims), guards=())
    extents[inner.name] = ragged
    rest = tuple(Dim(d.name, extents[d.name]) for d in piece.dims if d != block)
    yield apply_to_piece(replace(piece, guards=()), {block.name: block.extent - 1}, rest)
