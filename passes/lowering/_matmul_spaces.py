"""Contractions on a fed cube whose operands pass through a staging memory."""

from __future__ import annotations

from dataclasses import replace

from opc.program.ir import Access
from opc.tensor.ir import Dim, Read
from passes.lowering._axes import Frame
from passes.lowering._matmul import Staged, Tiles
from passes.lowering._matmul_tiles import TileNest
from passes.lowering._plan import Plan, Shape
from passes.lowering._plan_spaces import plan_spaces
from passes.lowering._stage import staged_bytes


class SpaceNest(TileNest):
    """Both operands are staged as soon as no remaining loop changes them, whole or chunk by chunk."""

    def plan_of(self, shape: Shape) -> Plan:
        """See the base class."""
        return plan_spaces(shape, self.machine)

    def _order(self) -> list[Dim]:
        s = self.shape
        return [*s.batch, *s.m, *s.n] if self.plan.rows_outer else [*s.batch, *s.n, *s.m]

    def _outer(self, dims: list[Dim], tiles: Tiles, staged: Staged) -> None:
        super()._outer(dims, tiles, self._stage_ready({d.name for d in dims}, tiles, staged))

    def _slab(self, tiles: Tiles, staged: Staged) -> None:
        self._tile(tiles, tiles, staged)

    def _within(self, inside: Tiles) -> Tiles:
        """Nothing: the tile is all that is staged."""
        return {}

    def _operand(self, read: Read, frame: Frame, staged: Access | None, blocks: Tiles) -> Access:
        """What is staged already, or a block staged now."""
        if staged is not None:
            return super()._operand(read, frame, staged, blocks)
        return self._stage(read, frame, self.channels if read == self.contraction.a else self.shape.n)

    def _stage_ready(self, left: set[str], tiles: Tiles, staged: Staged) -> Staged:
        """Stage what no remaining loop changes: columns once N is fixed, rows once M is."""
        s, c = self.shape, self.contraction
        if self.plan.parallel in left:
            return staged  # on-chip memory belongs to one core
        frame = self._frame(tiles)
        if not staged.columns_done and not left & {d.name for d in (*s.batch, *s.n)}:
            values = self.epilogue.columns(self._tile_frame(tiles), {d.name for d in s.m})
            staged = replace(
                staged, weights=self._stage_whole(c.b, frame, s.n), values=values, columns_done=True
            )
        if not staged.rows_done and not left & {d.name for d in (*s.batch, *s.m)}:
            staged = replace(staged, rows=self._stage_whole(c.a, frame, self.channels), rows_done=True)
        return staged

    def _stage_whole(self, read: Read, frame: Frame, last: tuple[Dim, ...]) -> Access | None:
        """All of K at once if that leaves room for the other operand and for double buffering."""
        room = self.machine.role("stage").capacity // 4
        if staged_bytes(read, self.tensors[read.tensor], frame) > room:
            return None
        return self._stage(read, frame, last)
