"""Lowering of everything that is not a cube contraction: pointwise chains, reductions, windows, moves.

All ops of a group run on one tile of the dims they share. Dims that only some ops have are walked
inside the tile, whole where the vector space is large and in vector-sized chunks where it is a
register file; an intermediate that does not fit a chunk then goes through scratch memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf, prod

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.ir import Access
from opc.tensor.ir import Dim, Op, Read, Tensor, reads, walk
from passes.lowering._accumulate import BLOCKWISE, Blockwise, Columns, Lanewise, Restarting
from passes.lowering._axes import Frame
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._expr import Value
from passes.lowering._row_plan import RowPlan, plan_rows
from passes.lowering._row_price import nest_cycles
from passes.lowering._row_space import cheapest, larger, space_plans
from passes.lowering._row_sums import RowSums, found_reads, shape_of
from passes.lowering._row_tile import RowTile, Tiles
from passes.lowering._store import by_dims

Parts = Restarting | Blockwise | Lanewise | Columns

_FEW = 5  # blocks, from which on adding them up first takes less time than reducing each


class RowNest(RowTile):
    """Emits one group."""

    def best(self) -> tuple[RowPlan, float]:
        """The plan that takes least, and how many cycles if the machine's pipes tell."""
        machine = self.emit.machine
        if not machine.role("vector").addressable:
            return plan_rows(self.ops, self.tensors, machine), 0.0
        found = cheapest((plan, self._price(plan)) for plan in space_plans(self.ops, self.tensors, machine))
        return cheapest([found, *((plan, self._price(plan)) for plan in larger(found[0]))])

    def _price(self, plan: RowPlan) -> float:
        trial = Emitter(self.emit.name, self.emit.machine)
        read = {r.tensor for op in self.ops for r in reads(op)}
        for name in sorted(read | {t.name for op in self.ops for t in op.outputs}):
            trial.memory(self.tensors[name], "inout")
        replace(self, emit=trial, kept={}, staged={}, common={}, given=plan).run()
        return nest_cycles(trial.program(), trial.machine)

    def run(self) -> None:
        """Emit the whole nest."""
        plan = self.plan
        cut = {d.name for d in plan.shared if d.name in plan.lanes and plan.size(d) < d.extent}
        # Blocks along memory go outside of rows where that keeps what all rows read alike.
        outside = cut if plan.addressable else set()
        dims = sorted(
            plan.in_order(plan.outer), key=lambda d: (d.name != plan.parallel, d.name not in outside)
        )
        if plan.parallel:
            self._shared(dims, {})
            return
        with self.emit.loop("one", 1, parallel=True):
            self._shared(dims, {})

    def inside(self, together: frozenset[str]) -> None:
        """Emit the nest within the caller's loops; dims ``together`` are written out innermost."""
        plan = self.plan
        order = tuple(sorted(plan.order, key=lambda n: n in together))
        self.plan = replace(plan, parallel="", order=order, unrolled=plan.unrolled | together)
        self._shared(self.plan.in_order(self.plan.outer), {})

    def here(self, tiles: Tiles) -> None:
        """Emit the nest on one tile of the shared dims, within the caller's loops."""
        self._shared([], tiles)

    def _shared(self, dims: list[Dim], tiles: Tiles) -> None:
        if dims:
            d = dims[0]
            if d.name == self.plan.parallel and d.name not in tiles:
                self._spread(dims, tiles)
                return
            self._stage_fixed(d, tiles)
            ends, unroll = d.name in self.plan.bordered, d.name in self.plan.unrolled
            for tile in self.emit.tiles(d.name, d.extent, self.plan.size(d), ends=ends, unroll=unroll):
                with self._scope():
                    self._shared(dims[1:], {**tiles, d.name: tile})
            return
        self.kept = {}
        if any(d.name not in tiles for d in self.plan.beside):
            self._rows_of_columns(tiles)
            return
        rounds = self.plan.together.rounds if self.plan.together is not None else ((self.ops, ()),)
        for once, rows in rounds:
            for op in once:
                self.emit.line = op.line
                self._op(op, tiles)
            self._go_over(rows, tiles)

    def _rows_of_columns(self, tiles: Tiles) -> None:
        """All rows, in each of which the ops run one after the other for each tile of columns."""
        plan = self.plan
        assert plan.together is not None
        made = [op for op in self.ops if op.monoid]
        sums = {id(op): Columns(self.emit, op, plan.beside, self._accumulated(op)) for op in made}
        for here in self._walk(plan.in_order(plan.beside), tiles):
            for op in made:
                sums[id(op)].start(self._frame(replace(op.pieces[0], reduce=()), here))
        for inner in self._walk(plan.in_order(plan.together.walked), {}):
            for here in self._walk(plan.in_order(plan.beside), tiles):
                for op in self.ops:
                    self.emit.line = op.line
                    self._block(op, here, inner, sums.get(id(op)))
        for here in self._walk(plan.in_order(plan.beside), tiles):
            for op in made:
                self.emit.line = op.line
                found = sums[id(op)].result(self._frame(replace(op.pieces[0], reduce=()), here))
                self._finish(op, here, [found], None, False)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        """What is staged inside belongs to one variant of a tile."""
        before = dict(self.staged)
        yield
        self.staged = before

    def _go_over(self, ops: tuple[Op, ...], tiles: Tiles) -> None:
        """All rows in blocks, for each of which the ops run one after the other."""
        if not ops:
            return
        together, plan = self.plan.together, self.plan
        assert together is not None
        blocks = prod(-(-d.extent // plan.size(d)) for d in together.walked)
        parts: dict[int, Restarting | Blockwise | Lanewise] = {}
        summed = tuple(op for op in ops if op in plan.summed)
        ops = tuple(op for op in ops if op not in plan.summed)
        sums = self._begin(summed, tiles) if summed else None
        for op in ops:
            self.emit.line = op.line
            self._stage_before(op, tiles)
            if op.monoid:
                parts[id(op)] = self._parts(op, tiles, blocks)
        for inner in self._walk(plan.in_order(together.walked), {}):
            with self._scope():
                for op in ops:
                    self.emit.line = op.line
                    self._block(op, tiles, inner, parts.get(id(op)))
                if sums is not None:
                    self._add(sums, {**tiles, **inner}, inner)
        for op in ops:
            if op.monoid:
                self.emit.line = op.line
                self._finish(op, tiles, parts[id(op)].results(), None, True)
        if sums is not None:
            sums.end()

    def _begin(self, ops: tuple[Op, ...], tiles: Tiles) -> RowSums:
        """Accumulators of the cube for what is summed up in the tile at hand."""
        plan, extents = self.plan, ops[0].pieces[0].extents
        assert plan.together is not None
        rows = tuple(plan.in_order(plan.together.walked))
        columns = Dim(plan.order[-1], extents[plan.order[-1]])
        shape = shape_of(ops, rows, columns, self.tensors)
        sums = RowSums(
            self.emit, ops, self.tensors, self.stored, shape, "", 1, columns=tiles[columns.name].size
        )
        sums.rows = prod(plan.size(d) for d in rows)
        sums.prepare()
        sums.begin(tiles, None)
        return sums

    def _add(self, sums: RowSums, here: Tiles, inner: Tiles) -> None:
        """Hand the rows of a block to the cube, as they are stored."""
        sums.tiles = inner
        values = {}
        for name, (op, read) in found_reads(sums.ops).items():
            self.emit.line = op.line
            ev = self._evaluator(op.pieces[0], here, {})
            if name in self.kept:
                value = ev.convert(self._internal(ev, read), self.tensors[name].dtype)
                assert isinstance(value.operand, Access)
                values[name] = by_dims(value.operand, ev.frame.axes)
            else:
                values[name] = memory_access(
                    self.tensors[name], [ev.frame.global_form(f) for f in read.index]
                )
        sums.add_block(values, {n: t.size for n, t in here.items()})

    def _block(self, op: Op, tiles: Tiles, inner: Tiles, parts: Parts | None) -> None:
        here = {**tiles, **inner}
        if parts is None:
            self._finish(op, here, [self._result(op, here)], None, True)
            return
        ev = self._evaluator(op.pieces[0], here, {})
        parts.add(ev, ev.convert(ev.wide(ev.value(op.pieces[0].body)), parts.dtype), inner)

    def _parts(self, op: Op, tiles: Tiles, blocks: int) -> Restarting | Blockwise | Lanewise:
        """What blocks of rows are reduced into."""
        piece, dtype = op.pieces[0], self._accumulated(op)
        frame = self._frame(replace(piece, reduce=()), tiles)
        if not self.plan.addressable:
            return self._accumulators(op, frame)
        if op.monoid not in BLOCKWISE or blocks < _FEW:
            return Restarting(self.emit, op, frame, dtype, self.number)
        block = {d.name: Tile(Affine(), self.plan.size(d), Affine()) for d in piece.reduce}
        return Blockwise(self.emit, op, frame, self._frame(piece, {**tiles, **block}), dtype)

    def _stage_before(self, op: Op, tiles: Tiles) -> None:
        """Stage what does not vary from row to row."""
        if not self.plan.addressable:
            return
        piece, inside = op.pieces[0], {t.name for o in self.ops for t in o.outputs}
        for read in dict.fromkeys(n for n in walk(piece.body) if isinstance(n, Read)):
            used = {v for f in read.index for v in f.names}
            if used <= tiles.keys() and read.tensor not in inside:
                self._stage(read, self._frame(piece, tiles), tiles)

    def _spread(self, dims: list[Dim], tiles: Tiles) -> None:
        """The parallel dim: its tiles over the cores, or a band of them for each core."""
        d, plan = dims[0], self.plan
        size = plan.band or plan.size(d)
        ends, unroll = d.name in plan.bordered, d.name in plan.unrolled
        for band in self.emit.tiles(d.name, d.extent, size, True, ends=ends, unroll=unroll):
            with self._scope():
                self._in_band(d, band, dims[1:], tiles)

    def _in_band(self, d: Dim, band: Tile, dims: list[Dim], tiles: Tiles) -> None:
        plan = self.plan
        if not plan.band:
            self._shared(dims, {**tiles, d.name: band})
            return
        if dims and dims[0].name in plan.lanes and plan.size(dims[0]) < dims[0].extent:
            for tile in self.emit.tiles(dims[0].name, dims[0].extent, plan.size(dims[0])):
                with self._scope():
                    self._in_band(d, band, dims[1:], {**tiles, dims[0].name: tile})
            return
        self._stage_fixed(d, tiles)
        for tile in self.emit.tiles(d.name, band.size, min(plan.size(d), band.size)):
            with self._scope():
                self._shared(dims, {**tiles, d.name: replace(tile, base=band.base + tile.base)})

    def _stage_fixed(self, d: Dim, tiles: Tiles) -> None:
        """Stage what all tiles of ``d`` read alike, and all further ones."""
        plan = self.plan
        if not plan.addressable or plan.size(d) == d.extent:
            return
        inside = {t.name for o in self.ops for t in o.outputs}
        for op in (op for op in self.ops if op not in plan.summed):
            piece = op.pieces[0]
            cut = {x.name for x in (*piece.dims, *piece.reduce) if plan.size(x) < x.extent} | {plan.parallel}
            whole = {x.name: Tile(Affine(), x.extent, Affine()) for x in piece.dims if x.name not in cut}
            here = {**whole, **tiles}
            for read in dict.fromkeys(n for n in walk(piece.body) if isinstance(n, Read)):
                used = frozenset(v for f in read.index for v in f.names)
                if used and used <= here.keys() and read.tensor not in inside:
                    self.emit.line = op.line
                    self._stage(read, self._frame(piece, here), here)

    def _op(self, op: Op, tiles: Tiles) -> None:
        piece = op.pieces[0]
        if self.plan.moved:
            self._move(piece, op.outputs[0], tiles)
            return
        extra = [d for d in piece.dims if d.name not in tiles]
        chunked = any(self.plan.size(d) < d.extent for d in extra)
        handed = chunked and self._read_later(op) and not self._in_memory(op)
        scratch = self._scratch(op, tiles) if handed else None
        for inner in self._walk(extra, {}):
            here = {**tiles, **inner}
            values = self._reduce(op, here) if op.monoid else [self._result(op, here)]
            self._finish(op, here, values, scratch, handed or not chunked)

    def _walk(self, dims: list[Dim], tiles: Tiles) -> Iterator[Tiles]:
        if not dims:
            yield tiles
            return
        d = dims[0]
        for tile in self.emit.tiles(d.name, d.extent, self.plan.size(d), unroll=d.name in self.plan.unrolled):
            yield from self._walk(dims[1:], {**tiles, d.name: tile})

    def _reduce(self, op: Op, tiles: Tiles) -> list[Value]:
        """Accumulate the body over the reduced dims; one value per output."""
        piece = op.pieces[0]
        staged = self._stage_windows(piece, tiles)
        found = self._accumulators(op, self._frame(replace(piece, reduce=()), tiles))
        for inner in self._walk(self.plan.in_order(piece.reduce), {}):
            ev = self._evaluator(piece, {**tiles, **inner}, staged)
            found.add(ev, ev.convert(ev.widen(ev.value(piece.body)), found.dtype), inner)
        return found.results()

    def _accumulators(self, op: Op, frame: Frame) -> Restarting | Lanewise:
        piece, plan, dtype = op.pieces[0], self.plan, self._accumulated(op)
        looped = any(plan.size(d) < d.extent and d.name not in plan.unrolled for d in piece.reduce)
        if plan.addressable or not looped or op.monoid in ("argmax", "argmin"):
            return Restarting(self.emit, op, frame, dtype, self.number)
        lanes = tuple(d for d in piece.reduce if plan.size(d) > 1 and d.name not in plan.merged)
        return Lanewise(self.emit, op, frame, dtype, lanes, {d.name: plan.size(d) for d in lanes})


def group_cycles(
    ops: Sequence[Op], tensors: dict[str, Tensor], stored: frozenset[str], machine: Machine
) -> float:
    """What a group takes as one nest beside a memory of vectors; infinite where it has to be split."""
    plan, price = RowNest(Emitter("", machine), tuple(ops), tensors, stored).chosen
    return inf if plan.spilled else price
