"""Contractions on a fed cube whose operands pass through a staging memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import MachineError
from opc.program.ir import Access
from opc.tensor.ir import Dim, Op, Read
from passes.lowering._axes import Axis, Frame
from passes.lowering._cube_sums import CubeSums, summed
from passes.lowering._emit import Tile
from passes.lowering._expr import Evaluator, Value
from passes.lowering._finish import finish
from passes.lowering._first import can_start, first_term
from passes.lowering._matmul import ContractionNest, Staged, Tiles, at, order
from passes.lowering._plan import Combined, Plan, Shape
from passes.lowering._plan_spaces import plan_spaces, result_room, rows_at_once
from passes.lowering._prologue import Prologue
from passes.lowering._prologue_cube import CubePrologue, channels_at_once, combined_op, part_elements
from passes.lowering._statistics import Statistics
from passes.tensor._cube_affine import Linear
from passes.tensor._cube_sums import cube_affine, cube_sums
from passes.tensor._outer_products import apart
from passes.tensor._prologue import drained_cycles, vector_cycles

# Rows of an accumulator tile that one epilogue block holds in vector registers.
_EPILOGUE_ROWS = 4


@dataclass
class SpaceNest(ContractionNest):
    """Both operands are staged as soon as no remaining loop changes them, whole or chunk by chunk."""

    band: Tile | None = None  # of the dim that is spread over cores: what this core does
    prologue: Prologue | None = None
    summaries: tuple[Statistics, ...] = ()
    multiplied: tuple[Op, ...] = ()  # reductions that the cube makes
    alone: bool = True  # outside what one core does
    summing: bool = False
    linear: Linear | None = None  # of an operand's channels, which the cube makes

    on_chip: ClassVar[bool] = True

    def choose(self) -> None:
        """See the base class; where the cube has no room for sums or combinations the vector unit makes them."""
        try:
            super().choose()
        except MachineError:
            if not self.multiplied and self.linear is None:
                raise
            if self.linear is not None:
                self._uncombined()
            else:
                reductions = self.shape.reductions + len(self.multiplied)
                self.shape, self.multiplied = replace(self.shape, reductions=reductions, summed=None), ()
            self.choose()
        if self.linear is not None and any(self.plan.chunk[d.name] % self._side for d in self.channels):
            self._uncombined()
            self.choose()

    @property
    def _side(self) -> int:
        """Channels of a block of the cube."""
        return self.machine.cube_shape[self.shape.operand][1]

    def _uncombined(self) -> None:
        """Leave combinations to the vector unit."""
        made = vector_cycles(self.before, self.contraction, self.tensors, self.machine)
        self.linear, self.shape = None, replace(self.shape, made=made, combined=None)

    def plan_of(self, shape: Shape) -> Plan:
        """See the base class."""
        self.finish = finish(
            self.ops, self.tensors, self.stored, shape, self.machine, self.first, self.multiplied
        )
        return plan_spaces(shape, self.machine, self.finish)

    def _shape(self) -> Shape:
        """See the base class; columns that lie next to each other are innermost."""
        shape, b = super()._shape(), self.contraction.b
        place = {d: apart(self.tensors[b.tensor], b, d.name) for d in shape.n}
        columns = tuple(tuple((name, abs(step)) for name, step in f.terms) for f in b.index)
        ops = (*self.before, *self.ops)
        group = (ops, self.ops[0], self.contraction, self.tensors, self.machine)
        self.linear = cube_affine(*group) if self.licensed else None
        self.multiplied = cube_sums(*group, linear=self.linear)
        stored = any(t.name in self.stored for op in self.before for t in op.outputs)
        made = shape.made
        if self.linear is not None:
            made = drained_cycles(self.before[0], self.linear, self.tensors, self.machine)
        return replace(
            shape,
            made=made,
            combined=self._combined(shape.operand),
            n=tuple(sorted(shape.n, key=lambda d: -place[d])),
            columns=columns,
            reductions=shape.reductions - len(self.multiplied),
            summed=summed(self.multiplied),
            stored=stored,
        )

    def _combined(self, operand: DType) -> Combined | None:
        """What the planner needs to know of what the cube makes of an operand."""
        found = self.linear
        if found is None:
            return None
        channels = self.before[0].pieces[0].extents[found.channel]
        elements, shift = part_elements(self.machine, operand), found.shift is not None
        at_once = channels_at_once(self.machine, operand, channels, found.products + shift)
        return Combined(found.products, shift, channels, at_once, elements)

    def _first(self) -> tuple[Op, Read] | None:
        """See the base class; in place of an addition the accumulator is written before the first product."""
        operand = self.tensors[self.contraction.b.tensor].dtype
        rows = {d.name for d in self.contraction.m}
        found = first_term(self.ops, rows, self.tensors, self.stored)
        if found is None or not can_start(self.machine, self.machine.accumulator_role(operand)):
            return None
        op, term, self.ops = found
        return op, term

    def _order(self) -> list[Dim]:
        s = self.shape
        return [*s.batch, *s.m, *s.n] if self.plan.rows_outer else [*s.batch, *s.n, *s.m]

    def run(self) -> None:
        """See the base class; parts of statistics are merged when all cores are done."""
        c, plan = self.contraction, self.plan
        if self.before:
            slices = {d.name: plan.chunk[d.name] for d in self.channels}
            given = (self.tensors, c.a, self.piece.extents)
            if self.shape.combined is not None and self.linear is not None:
                made = self.shape.combined
                self.prologue = CubePrologue(
                    self.emit, (combined_op(self.before[0], self.linear),), *given,
                    made.elements * self.shape.operand.bytes, slices, stored=self.shape.stored,
                    linear=self.linear, at_once=made.at_once,
                )  # fmt: skip
            else:
                self.prologue = Prologue(
                    self.emit, self.before, *given, self._operand_room(), slices, stored=self.shape.stored
                )
        self._summarise()
        super().run()
        for summary in self.summaries:
            summary.merge()

    def _summarise(self) -> None:
        """Who sums up the result: the vector unit, the cube, or either of them some."""
        plan, emit = self.plan, self.emit
        block = plan.band or plan.outer.get(plan.parallel, 1)
        reductions = tuple(op for op in self.ops[1:] if op.monoid is not None and op not in self.multiplied)
        common = (self.tensors, self.stored, self.shape, plan.parallel, block)
        if reductions:
            self.epilogue.statistics = Statistics(emit, reductions, *common)
            self.summaries += (self.epilogue.statistics,)
        if self.multiplied:
            sums = CubeSums(emit, self.multiplied, *common)
            sums.columns = prod(plan.outer[d.name] for d in self.shape.n)
            sums.rows = min(prod(plan.outer[d.name] for d in self.shape.m), self._rows_at_once(sums.columns))
            self.epilogue.sums = sums
            self.summaries += (sums,)

    def _rows_at_once(self, columns: int) -> int:
        return rows_at_once(self.shape, self.machine, self.finish, columns)

    def _operand_room(self) -> int:
        """Bytes next to the vector unit that results leave to what makes an operand; a little is for columns."""
        free = self.machine.role("vector").capacity - result_room(self.shape, self.machine)
        return free - free // 16

    def _outer(self, dims: list[Dim], tiles: Tiles, staged: Staged) -> None:
        left = {d.name for d in dims}
        if self.plan.band and self.band is None:
            d = dims[0]
            for band in self.emit.tiles(d.name, d.extent, self.plan.band, parallel=True):
                self.band = band
                self._core(self._order(), tiles, staged)
            return
        if self.plan.parallel in left and self.band is None:
            super()._outer(dims, tiles, staged)  # on-chip memory belongs to one core
        elif self.alone:
            self._core(dims, tiles, staged)
        elif self.summaries and not self.summing and self._rows_next(dims):
            self.summing = True
            for summary in self.summaries:
                summary.begin(tiles, self.band)
            self._outer(dims, tiles, staged)
            for summary in self.summaries:
                summary.end()
            self.summing = False
        else:
            super()._outer(dims, tiles, self._stage_ready(left, tiles, staged))

    def _core(self, dims: list[Dim], tiles: Tiles, staged: Staged) -> None:
        """What one core does in one iteration of the parallel loop."""
        self.alone = False
        if self.prologue is not None:
            sizes = {**self.plan.outer, **self.plan.chunk}
            moving = {name for name, size in sizes.items() if size < self.piece.extents.get(name, size)}
            self.prologue.prepare({d.name for d in self.channels}, moving)
        if self.epilogue.sums is not None:
            self.epilogue.sums.prepare()
        self._outer(dims, tiles, staged)
        self.alone = True

    def _rows_next(self, dims: list[Dim]) -> bool:
        """Whether no loop around the remaining ones of rows is to come; on the cube, where room is scarce, whether
        those of rows are the next.
        """
        rows = set(self.shape.m)
        return not dims or dims[0] in rows or not (rows & set(dims) or self.multiplied)

    def _stage(self, read: Read, frame: Frame, last: tuple[Dim, ...]) -> Access:
        """See the base class; what makes the operand runs on the way. A matrix is staged as it lies, since operand
        memories take it either way; a window needs its channels innermost.
        """
        if self.prologue is None or read != self.contraction.a:
            return super()._stage(read, frame, () if self._matrix(read) else last)
        return self.prologue.stage(frame, {d.name for d in last})

    def _matrix(self, read: Read) -> bool:
        """Whether operand memories reorder what is staged for a read, and it is no window. Of a batch one is staged."""
        batch = {d.name for d in self.shape.batch}
        long = {name for name, extent in self.piece.extents.items() if extent > 1 and name not in batch}
        whole = all(len(f.names & long) <= 1 for f in read.index)
        return whole and self.machine.role("operand_a").fractal is not None

    def _tiles(self, d: Dim, size: int, tiles: Tiles, parallel: bool = False) -> Iterator[Tile]:
        """See the base class; blocks of the dim that is spread stay inside the core's band."""
        if self.band is None or d.name != self.plan.parallel:
            yield from super()._tiles(d, size, tiles, parallel)
            return
        for tile in self.emit.tiles(d.name, self.band.size, min(size, self.band.size)):
            yield replace(tile, base=self.band.base + tile.base)

    def _slab(self, tiles: Tiles, staged: Staged) -> None:
        self._tile(tiles, tiles, staged)

    def _within(self, inside: Tiles) -> Tiles:
        """Nothing: the tile is all that is staged."""
        return {}

    def _chunks(self, dims: list[Dim], chunk: Tiles) -> Iterator[Tiles]:
        """See the base class; the sum begins with what is made first."""
        if self.prologue is not None:
            dims = sorted(dims, key=lambda d: d not in self.channels)
        yield from super()._chunks(dims, chunk)

    def _operand(self, read: Read, frame: Frame, staged: Access | None, blocks: Tiles) -> Access:
        """What is staged already, or a block staged now."""
        if staged is not None:
            return super()._operand(read, frame, staged, blocks)
        return self._stage(read, frame, self.channels if read == self.contraction.a else self.shape.n)

    def _stage_ready(self, left: set[str], tiles: Tiles, staged: Staged) -> Staged:
        """Stage what no remaining loop changes: columns once N is fixed, rows once M is."""
        s, c = self.shape, self.contraction
        frame = self._frame(tiles)
        if not staged.columns_done and not left & {d.name for d in (*s.batch, *s.n)}:
            values = self.epilogue.columns(self._tile_frame(tiles), {d.name for d in s.m})
            weights = self._stage(c.b, frame, s.n) if "columns" in self.plan.whole else None
            staged = replace(staged, weights=weights, values=values, columns_done=True)
        if not staged.rows_done and not left & {d.name for d in (*s.batch, *s.m)}:
            rows = self._stage(c.a, frame, self.channels) if "rows" in self.plan.whole else None
            staged = replace(staged, rows=rows, rows_done=True)
        return staged

    def _multiply(self, tiles: Tiles, inside: Tiles, chunk: Tiles, staged: Staged, acc: str) -> None:
        """Copy one chunk of both operands to the operand spaces and multiply."""
        frame = self._frame(tiles, chunk)
        rows, cols, *ks = frame.axes
        k = Axis("k_", tuple(d for a in ks for d in a.dims))
        c = self.contraction
        a_source = self._operand(c.a, frame, staged.rows, {**chunk, **self._within(inside)})
        b_source = self._operand(c.b, frame, staged.weights, chunk)
        a_type, b_type = (self.tensors[r.tensor].dtype for r in (c.a, c.b))
        a = self.emit.local("a0", a_type, [rows.size, k.size], "operand_a")
        b = self.emit.local("b0", b_type, [k.size, cols.size], "operand_b")
        self.emit.emit(
            "copy_in.copy", frame.dims((rows, *ks)), [Access(a, (rows.flat(), k.flat()))], [a_source],
            fill=c.a.fill if self.prologue is not None else None,
        )  # fmt: skip
        self.emit.emit(
            "copy_in.copy", frame.dims((*ks, cols)), [Access(b, (k.flat(), cols.flat()))], [b_source]
        )
        m, n, kk = (Affine.var(x) for x in ("m_", "n_", "k_"))
        self.emit.emit(
            "cube.mma",
            [("m_", rows.size), ("n_", cols.size), ("k_", k.size)],
            [Access(acc, (m, n))],
            [Access(a, (m, kk)), Access(b, (kk, n))],
            init=order(chunk) if self.first is None else None,
            chain=self._chain(),
        )

    def _drain(self, tiles: Tiles, frame: Frame, acc: str, staged: Staged) -> None:
        """Bring the accumulator within reach of the vector unit, then run the epilogue on it."""
        axes, dtype = frame.axes, self.shape.accumulator
        source = Evaluator.at(acc, axes)
        vector = self.machine.role("vector")
        if self.machine.roles[self.accumulator] == vector.name:
            self.epilogue.apply(frame, Value(source, axes, dtype, True), staged.values)
            return
        if vector.addressable:
            for rows, first in self._parts(tiles):
                for summary in self.summaries:
                    summary.tiles, summary.first = tiles, first
                self._drain_part(rows, first, acc, staged)
            return
        drained = self.emit.local("drained", dtype, [a.size for a in axes], "scratch")
        target = Evaluator.at(drained, axes)
        self.emit.emit("scale.drain", frame.axis_dims(axes), [target], [source])
        for block, shift in self._blocks(tiles):
            # As many rows at a time as the register file holds.
            sub = self._tile_frame(block)
            part = at(Access(drained, tuple(a.flat() for a in axes)), shift)
            self.epilogue.apply(sub, self._reload(part, sub), staged.values)

    def _parts(self, tiles: Tiles) -> Iterator[tuple[Tiles, Affine]]:
        """(a part of a tile's rows, its first row): what the vector unit's memory holds of the results at once."""
        s = self.shape
        columns = prod(tiles[d.name].size for d in s.n)
        most = self._rows_at_once(columns)
        wide = [i for i, d in enumerate(s.m) if tiles[d.name].size > 1]
        if prod(tiles[d.name].size for d in s.m) <= most or not wide:
            yield tiles, Affine()
            return
        d, inner = s.m[wide[0]], prod(tiles[o.name].size for o in s.m[wide[0] + 1 :])
        whole, size = tiles[d.name], max(1, most // inner)
        if self.prologue is not None and whole.size % -(-whole.size // size):
            size = (
                size + 1
            ) // 2  # parts of two sizes have buffers of their own, and the operand needs the rest
        for t in self.emit.even_tiles(f"{d.name}_e", whole.size, size):
            yield {**tiles, d.name: Tile(whole.base + t.base, t.size, t.order)}, t.base * inner

    def _drain_part(self, tiles: Tiles, first: Affine, acc: str, staged: Staged) -> None:
        """Rows from ``first`` on: out of the accumulator, then the epilogue."""
        frame = self._tile_frame(tiles)
        axes, dtype = frame.axes, self.shape.accumulator
        drained = self.emit.local("drained", dtype, [a.size for a in axes], "vector")
        target = Evaluator.at(drained, axes)
        rows, columns = Evaluator.at(acc, axes).index
        self.emit.emit("scale.drain", frame.axis_dims(axes), [target], [Access(acc, (rows + first, columns))])
        self.epilogue.apply(frame, Value(target, axes, dtype, True), staged.values)

    def _reload(self, drained: Access, frame: Frame) -> Value:
        axes = frame.axes
        out = self.emit.local("in", self.shape.accumulator, [a.size for a in axes], "vector")
        dims = Access(out, tuple(a.flat() for a in axes))
        self.emit.emit("copy_in.copy", frame.dims(axes), [dims], [drained])
        return Value(Evaluator.at(out, axes), axes, self.shape.accumulator, True)

    def _blocks(self, tiles: Tiles) -> Iterator[tuple[Tiles, Tiles]]:
        """(tiles of a block of rows, the block within the accumulator tile)."""
        if not self.shape.m:
            yield tiles, {}
            return
        q = self.shape.m[-1].name
        whole = tiles[q]
        for t in self.emit.even_tiles(f"{q}_e", whole.size, min(_EPILOGUE_ROWS, whole.size)):
            yield {**tiles, q: Tile(whole.base + t.base, t.size, t.order)}, {q: t}
