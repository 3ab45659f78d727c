"""What a plan for a cube fed tile by tile costs: products, tile loads by cache level, copies, and bytes from afar."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from passes.lowering._row_layout import RowLayout
from passes.lowering._tile_blocks import Rows

if TYPE_CHECKING:
    from passes.lowering._plan_tiles import Model

# Shares of a run on 1, 2, 4 and 8 cores: the split should be even for few, and not impossible for many.
_CORES = ((1, 0.4), (2, 0.4), (4, 0.1), (8, 0.1))
# Cycles that a grid barrier costs, and a loop over blocks: what it cannot overlap.
_BARRIER, _LOOP = 3000, 300
# What packing columns near may cost beside packing them all before, whose memory it saves.
_SPARED = 1.5
# What writing results column by column, far apart in memory, costs beside writing them row by row.
_SCATTERED = 1.1


class Price:
    """Estimates of plans that share a block, a slab and a layout."""

    def __init__(
        self, model: Model, slab: dict[str, int], rows: Rows, columns: int, stage: str, layout: RowLayout,
        chunk: dict[str, int],
    ) -> None:  # fmt: skip
        self.model, self.stage = model, stage
        s, box = model.s, {**dict.fromkeys(slab, 1), **rows.block}
        width = s.n[-1].extent if s.n else 1
        self.slabs = prod(ceil(d.extent / slab[d.name]) for d in s.m)
        self.wide = model.n // width * ceil(width / columns)
        self.blocks = rows.blocks(slab)
        steps = ceil(model.k / prod(chunk.values()))
        self.cube = rows.count * ceil(columns / model.tile_columns) * steps * model.product
        self.a, self.b = (n * model.k * model.size for n in (prod(box.values()), columns))
        self.under_block, self.under_slab = model.touched(box), model.touched(slab)
        depth = prod(chunk.values())
        taps = max(1, round(self.a / max(1.0, self.under_block)))
        self.window = self.under_block * depth * taps / model.k + taps * depth * columns * model.size
        self.copied = layout.elements * model.size
        self.drained = prod(box.values()) * columns * s.accumulator.bytes
        self.copies = self.copied * model.copy_rate

    def near(self) -> bool:
        """Whether columns that arrive at run time should be packed near: there is room, and it costs little more."""
        m, columns = self.model, self.model.a.columns
        if columns is None:
            return False
        room = m.machine.role("stage").capacity - columns.bytes - self.drained
        rows = self.copied if self.stage == "slab" else 0
        return rows <= room and self._packing(True) <= _SPARED * self._packing(False)

    def _packing(self, near: bool) -> float:
        """Cycles that packing columns at run time takes: near, once per slab, or before all else, in memory."""
        m, columns = self.model, self.model.a.columns
        if columns is None:
            return 0.0
        copies = columns.total * m.copy_rate
        if near:
            return self.slabs * (copies + m.far * columns.moved)
        beyond = (
            2 * columns.total if columns.total > m.l2 / 2 else 0
        )  # fetched and written back; read by the products
        return _BARRIER + copies + m.far * (columns.moved + beyond)

    def of(self, per: int, tasks: int, inner: str, stream: str, prefetch: bool, near: bool = False) -> float:
        """Cycles of a run on one core, and a bit more where the work does not spread evenly over a few."""
        m = self.model
        copy = self._packing(near)
        if self.stage == "whole":
            copy = _BARRIER + self.copies
        elif self.stage == "slab":
            copy = self.copies * self.slabs * (tasks if per else 1) * m.around
        passes = self.blocks * self.slabs * self.wide * m.around
        loops = self.slabs * m.around * (self.wide if inner == "rows" else self.blocks)
        even = sum(share * ceil(tasks / t) * t / tasks for t, share in _CORES)
        close, far = passes * max(self.cube, self._loads(inner, stream)), self._far(per, tasks, inner, near)
        # Without prefetches only the first block of new columns waits, but it waits alone.
        hidden = (
            1.0 if prefetch or near or m.weights <= m.l2 else 1 - 1 / self.blocks if inner == "rows" else 0.0
        )
        busy = max(close, far) + (1 - hidden) * min(close, far)
        return (busy + _LOOP * loops) * even + copy

    def stream(self, inner: str) -> str:
        """The operand whose tiles should pass the nearest cache by: where nothing is cheaper, the one that is
        wanted again last, unless the taps of a window share it.
        """
        last = "a" if inner == "rows" and self.a < 2 * self.under_block else "b"
        return min(("none", "b", "a"), key=lambda s: (self._loads(inner, s), s != last))

    def _loads(self, inner: str, stream: str) -> float:
        """Cycles that loading the tiles of one block takes, by where they are found."""
        m, a, b = self.model, float(self.a), float(self.b)
        if stream != "a" and self.window <= m.l1:
            a = min(a, self.under_block)  # what the taps of a window share is loaded once
        if stream == "none":
            keep_a = keep_b = self.under_block + b <= m.l1
        else:
            keep_a, keep_b = (stream == "b" and self.under_block <= m.l1), (stream == "a" and b <= m.l1)
        if keep_a and (inner == "columns" or self.under_slab <= m.l1 // 2):
            a = self.under_block / self.wide
        if keep_b and inner == "rows":
            b /= self.blocks
        elif keep_b and m.weights <= m.l1 // 2:
            b /= self.blocks * self.slabs
        return m.middle * (a + b) + m.near * (self.a + self.b - a - b)

    def _far(self, per: int, tasks: int, inner: str, near: bool) -> float:
        """Cycles of the bytes that come from beyond the second cache level, or go there."""
        m = self.model
        rows, results, weights = (float(n * m.around) for n in (m.rows, m.results, m.weights))
        weights *= not near
        if rows + weights + results <= m.l2:
            return 0.0
        slab, mine = self._slab(), m.weights / (tasks if per else 1)
        weights *= self.slabs if slab + mine > m.l2 else 1
        weights *= self.blocks if inner == "columns" and mine > m.l2 else 1
        again = tasks if per and rows > m.l2 / 2 else 1
        if inner == "rows" and slab + self.b > m.l2:
            again = self.wide  # every block of columns finds that the slab's rows are gone
        if inner == "rows" and (per or self.slabs == 1) and results > m.l2 / 2:
            results *= _SCATTERED
        if self.stage == "whole" and self.copied > m.l2 / 2:
            rows += 3 * self.copied  # fetched, written back, and read again
        rows += (again - 1) * slab * self.slabs * m.around
        return m.far * (rows + weights + results)

    def _slab(self) -> float:
        """Bytes of operand A that a slab is read from."""
        if self.stage == "direct":
            return self.under_slab
        return self.copied / (self.slabs if self.stage == "whole" else 1)
