"""Contractions that sum outer products, on a cube that reads memory and accumulates in registers.

Weight gradients are such: the sum goes over the pixels of all images, along which neither operand is contiguous,
and vectors lie along the channels. Both operands of a chunk of the sum are copied near, rows in panels of a
register block, columns in panels of the cube's width; every block of the result goes over the chunk before the
next chunk is copied, and is kept in memory meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from opc.affine import Affine
from opc.program.ir import Access, Imm
from opc.tensor.ir import Dim, Read
from passes.lowering._axes import Frame
from passes.lowering._blocks import Cut
from passes.lowering._emit import Tile, memory_access
from passes.lowering._matmul import ContractionNest, Staged, Tiles, at, operand_type
from passes.lowering._outer import outer_shape
from passes.lowering._plan import Plan, Shape
from passes.lowering._plan_outer import blocks_of_rows, plan_outer
from passes.lowering._stage import boxes, grouped, stage
from passes.tensor._outer_products import group_of, oriented

_NUMBER = "b_"  # of a panel
_Panels = Mapping[int, Access]  # by their width


class OuterNest(ContractionNest):
    """Chunks of the sum outside, register blocks inside."""

    def __post_init__(self) -> None:
        c, machine = self.contraction, self.emit.machine
        self.contraction = oriented(c, self.tensors, machine, operand_type(c, self.tensors, machine))
        super().__post_init__()

    def _shape(self) -> Shape:
        """Narrow types are widened as they are copied near, unless the cube multiplies groups of them."""
        shape = super()._shape()
        depth = self.machine.cube_shape[shape.operand][2]
        self.group = group_of(self.contraction, depth, self.tensors)
        return shape if self.group is not None else replace(shape, operand=shape.operand.compute)

    def plan_of(self, shape: Shape) -> Plan:
        """See the base class."""
        self.outer = outer_shape(
            self.contraction, shape.m, self.tensors, shape.operand, shape.accumulator, self.group
        )
        self.chosen = plan_outer(self.outer, self.machine, self.knobs)
        return Plan(self.chosen.parallel, {}, self.chosen.chunk)

    def run(self) -> None:
        """Emit the whole nest."""
        self.emit.line = self.ops[0].line
        s, name = self.outer, self.chosen.parallel
        self.once = all(self.plan.chunk[d.name] == d.extent for d in s.summed)
        self.kept = "" if self.once or self._in_place() else self._workspace()
        spread = next((d for d in s.every if d.name == name), None)
        if spread is None:
            with self.emit.loop("one", 1, parallel=True):
                self._task(s.batch, {})
            return
        for tile in self.emit.tiles(name, spread.extent, self.chosen.task, True):
            self._task([d for d in s.batch if d is not spread], {name: tile})

    def _in_place(self) -> bool:
        """Whether partial sums may stand where the result will."""
        out = self.ops[0].outputs[0]
        step = self.piece.index[out.memory_order[-1]].coefficient(self.outer.column.name)
        return len(self.ops) == 1 and out.dtype is self.shape.accumulator and step == 1

    def _workspace(self) -> str:
        s = self.outer
        extents = [d.extent for d in (*s.batch, *s.others, *s.rows, s.column)]
        return self.emit.workspace(f"{self.ops[0].name}_sum", s.accumulator, extents)

    def _task(self, batch: Sequence[Dim], tiles: Tiles) -> None:
        if batch:
            with self.emit.loop(f"{batch[0].name}_o", batch[0].extent) as var:
                self._task(batch[1:], {**tiles, batch[0].name: Tile(var, 1, var)})
            return
        s = self.outer
        tiles = {**{d.name: Tile(Affine(), d.extent, Affine()) for d in (*s.rows, s.column)}, **tiles}
        if not self.once:
            for block in self._result(tiles):
                self._clear(self._tile_frame(block))
        for chunk in self._chunks(list(s.summed), {}):
            self._chunk(tiles, chunk)
        if self.kept:
            for block in self._result(tiles):
                frame = self._tile_frame(block)
                self._drain(block, frame, self._load(frame), Staged())

    # The result, block by block.

    def _result(self, tiles: Tiles) -> Iterator[Tiles]:
        """All register blocks of a task."""
        name = self.outer.column.name
        for rows in self._row_groups(tiles):
            for columns in self._column_blocks(tiles[name]):
                yield from self._row_blocks({**rows, name: columns})

    def _row_groups(self, tiles: Tiles) -> Iterator[Tiles]:
        """Rows whose panels are staged together."""
        last = tiles[self.outer.rows[-1].name]
        if not self.outer.panels or self.chosen.rows >= last.size:
            yield tiles
            return
        name = self.outer.rows[-1].name
        for tile in self.emit.tiles(name, last.size, self.chosen.rows):
            yield {**tiles, name: Tile(last.base + tile.base, tile.size, tile.order)}

    def _column_blocks(self, group: Tile) -> Iterator[Tile]:
        for start, width, count in self._widths(group):
            with self.emit.loop(f"{self.outer.column.name}_o", count) as var:
                yield Tile(group.base + start + var * width, width, var)

    def _widths(self, group: Tile) -> list[tuple[int, int, int]]:
        """First column, width and number of equal panels."""
        width = min(self.machine.cube_shape[self.shape.operand][1], group.size)
        count, rest = divmod(group.size, width)
        return [(0, width, count), *([(count * width, rest, 1)] if rest else [])]

    def _cut(self, tiles: Tiles) -> Cut | None:
        sizes = {name: t.size for name, t in tiles.items()}
        return blocks_of_rows(self.outer, self.machine, self.knobs, sizes)

    def _row_blocks(self, tiles: Tiles) -> Iterator[Tiles]:
        """Register blocks of one block of columns, window position by window position."""
        for block in self._cut_up(self._cut(tiles), tiles, tiles):
            yield from self._windows(list(self.outer.others), block)

    def _cut_up(self, cut: Cut | None, whole: Tiles, tiles: Tiles) -> Iterator[Tiles]:
        if cut is None:
            yield tiles
            return
        for part in cut.parts:
            with self.emit.loop(f"{cut.dim}_o", part.count) as var:
                base = whole[cut.dim].base + var * part.size + part.start
                yield from self._cut_up(part.inside, whole, {**tiles, cut.dim: Tile(base, part.size, var)})

    def _windows(self, dims: list[Dim], tiles: Tiles) -> Iterator[Tiles]:
        if not dims:
            yield tiles
            return
        with self.emit.loop(f"{dims[0].name}_o", dims[0].extent) as var:
            yield from self._windows(dims[1:], {**tiles, dims[0].name: Tile(var, 1, var)})

    # Sums of a block between chunks.

    def _place(self, frame: Frame) -> Access:
        s = self.outer
        if not self.kept:
            return memory_access(self.ops[0].outputs[0], [frame.global_form(f) for f in self.piece.index])
        dims = (*s.batch, *s.others, *s.rows, s.column)
        return Access(self.kept, tuple(frame.global_form(Affine.var(d.name)) for d in dims))

    def _new(self, frame: Frame) -> str:
        rows, columns = frame.axes[:2]
        return self.emit.local("acc", self.shape.accumulator, [rows.size, columns.size], self.accumulator)

    def _at(self, acc: str, frame: Frame) -> Access:
        return Access(acc, (frame.axes[0].flat(), frame.axes[1].flat()))

    def _clear(self, frame: Frame) -> None:
        acc, dims = self._new(frame), frame.dims(frame.axes[:2])
        self.emit.emit("vector.copy", dims, [self._at(acc, frame)], [Imm(0.0)])
        self._store(acc, frame)

    def _load(self, frame: Frame) -> str:
        acc = self._new(frame)
        self.emit.emit(
            "copy_in.copy", frame.dims(frame.axes[:2]), [self._at(acc, frame)], [self._place(frame)]
        )
        return acc

    def _store(self, acc: str, frame: Frame) -> None:
        self.emit.emit(
            "copy_out.copy", frame.dims(frame.axes[:2]), [self._place(frame)], [self._at(acc, frame)]
        )

    # One chunk of the sum.

    def _chunk(self, tiles: Tiles, chunk: Tiles) -> None:
        s, name = self.outer, self.outer.column.name
        for group in self._row_groups(tiles):
            rows = self._stage_rows(group, chunk)
            whole = tiles[name]
            for part in self.emit.tiles(name, whole.size, min(whole.size, self.chosen.columns)):
                columns = Tile(whole.base + part.base, part.size, part.order)
                panels = {
                    width: self._panels(
                        s.b, name, Tile(columns.base + start, width, Affine()), count, group, chunk
                    )
                    for start, width, count in self._widths(columns)
                }
                for column in self._column_blocks(columns):
                    for block in self._row_blocks({**group, name: column}):
                        self._add(block, rows, panels, chunk)

    def _stage_rows(self, tiles: Tiles, chunk: Tiles) -> _Panels:
        """Panels of a group of rows; where rows are windows too, what all of them touch, by width 0."""
        s = self.outer
        if not s.panels:
            whole = self._frame({n: t for n, t in tiles.items() if n != s.column.name}, chunk)
            names = {d.name for d in s.rows}
            tensor = self.tensors[s.a.tensor]
            return {0: stage(self.emit, s.a, tensor, whole, "stage", names, self.shape.operand, s.group)}
        name, cut = s.rows[-1].name, self._cut(tiles)
        assert cut is not None
        base = tiles[name].base
        return {
            p.size: self._panels(s.a, name, Tile(base + p.start, p.size, Affine()), p.count, tiles, chunk)
            for p in cut.parts
        }

    def _panels(self, read: Read, name: str, first: Tile, count: int, tiles: Tiles, chunk: Tiles) -> Access:
        """Copy ``count`` blocks of a dim, the ``first`` and those behind it, each with all that it meets together.

        Memory is read in the order in which it lies.
        """
        tensor = self.tensors[read.tensor]
        base = first.base + Affine.var(_NUMBER) * first.size * (count > 1)
        batch = {d.name: tiles[d.name] for d in self.outer.batch}
        frame = self._frame({**batch, name: Tile(base, first.size, Affine())}, chunk)
        found, group = boxes(read, tensor, frame), self.outer.group
        mine = next(b for b in found if read.index[b.axis].coefficient(name))
        inner = [(group.name, group.extent)] if group is not None else []
        others = [b for b in grouped(found, group) if b is not mine and b.count > 1]
        others = others[:-1] if inner else others
        shape = [count, *(b.count for b in others), first.size, *(size for _, size in inner)]
        buffer = self.emit.local(f"{tensor.name}_near", self.shape.operand, shape, "stage")
        index = {b.axis: b.first for b in found}
        index[mine.axis] += Affine.var(name, mine.step) if first.size > 1 else 0
        for b in found:
            if group is not None and b.local.coefficient(group.name):
                index[b.axis] += Affine.var(group.name, b.step)
        looped = others if mine is found[-1] else []
        dims = [
            (_NUMBER, count),
            *((f"h{b.axis}", b.count) for b in others if b not in looped),
            (name, first.size),
            *inner,
        ]
        last = (Affine.var(name), *(Affine.var(n) for n, _ in inner))
        with ExitStack() as loops:
            place = []
            for b in others:
                inside = Affine.var(f"h{b.axis}")
                var = loops.enter_context(self.emit.loop(f"h{b.axis}_o", b.count)) if b in looped else inside
                place.append(var)
                index[b.axis] += var * b.step
            source = memory_access(tensor, [index[axis] for axis in sorted(index)])
            target = Access(buffer, (Affine.var(_NUMBER), *place, *last))
            self.emit.emit("copy_in.copy", dims, [target], [source], fill=read.fill)
        return Access(buffer, (Affine.var(_NUMBER), *(b.local for b in others), *last))

    def _add(self, block: Tiles, rows: _Panels, panels: _Panels, chunk: Tiles) -> None:
        """The products of a chunk, for one register block."""
        s = self.outer
        frame = self._frame(block, chunk)
        row, column, *ks = frame.axes
        windows = {d.name: block[d.name] for d in s.others}
        b = _panel(panels, block[s.column.name], windows)
        a = (
            _panel(rows, block[s.rows[-1].name], {})
            if s.panels
            else at(rows[0], {d.name: block[d.name] for d in s.rows})
        )
        acc = self._new(frame) if self.once else self._load(frame)
        dims = [*frame.dims((row, column)), *frame.dims(ks)]
        self.emit.emit(
            "cube.mma", dims, [self._at(acc, frame)], [a, b],
            init=Affine() if self.once else None, chain=self._chain(),
        )  # fmt: skip
        if self.once:
            self._drain(block, self._tile_frame(block), acc, Staged())
        else:
            self._store(acc, frame)


def _panel(panels: _Panels, block: Tile, others: Tiles) -> Access:
    """The panel of a block, whose ``order`` is its number."""
    return at(panels[block.size], {_NUMBER: Tile(block.order, 1, block.order), **others})
