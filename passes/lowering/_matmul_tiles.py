"""Contractions on a cube that is fed from memory tile by tile: blocks of accumulator tiles, one buffer a tile.

Operand A is read where it lies, or from a copy that holds its padding and the order that tiles want: one per
slab of rows in the stage space, or one of everything in a parallel loop of its own before the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access
from opc.tensor.ir import Dim, Function, Op
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Tile, memory_access
from passes.lowering._expr import Evaluator, Value
from passes.lowering._knobs import Knobs
from passes.lowering._matmul import ContractionNest, Tiles
from passes.lowering._packing import copying_op
from passes.lowering._plan_tiles import Operands, Priced, TilePlan, plan_tiles
from passes.lowering._tile_blocks import Grid, cover
from passes.lowering._tile_columns import as_packed, near_columns
from passes.lowering._tile_rows import Source, TileRows
from passes.tensor._contraction import Contraction

# Rows that one step of the epilogue holds in vector registers.
_EPILOGUE_ROWS = 4
# Plans beyond this factor of the best estimate are not worth timing.
_RIVALS = 1.3


_Loop = Callable[[Tiles], Iterator[Tiles]]


class TileNest(ContractionNest):
    """Every buffer in the operand and accumulator spaces is one tile."""

    def choose(self) -> None:
        """Pick the plan; the others are rivals."""
        c = self.contraction
        self.tensor = self.tensors[c.a.tensor]
        self.shape = replace(self.shape, k=as_packed(self.shape.k, c.b, self.tensors[c.b.tensor]))
        summed = frozenset(d.name for d in self.shape.k)
        self.columns = near_columns(self.packing, c.b, self.shape, self.tensors)
        operands = Operands(
            c.a, self.tensor, summed, c.a.fill is not None, self.ragged is not None, self.columns
        )
        self.priced: list[Priced] = plan_tiles(self.shape, operands, self.machine, self.knobs)
        self.tiling: TilePlan = self.priced[0].plan
        self.summed, self.room = summed, self.machine.cube_shape[self.shape.operand][2]

    @staticmethod
    def packing_of(c: Contraction, function: Function) -> Op | None:
        """See the base class."""
        return copying_op(c, function)

    @property
    def packs(self) -> bool:
        """See the base class."""
        return self.tiling.near

    def alternatives(self) -> list[Knobs]:
        """See the base class."""
        best = self.priced[0]
        found: list[Knobs] = []
        for p in self.priced:
            if p.cycles > best.cycles * _RIVALS:
                break
            given = p.plan.knobs
            other = {"on": "off", "off": "on" if p.plan.inner == "rows" else "off"}[p.plan.prefetch]
            streams = [replace(given, stream=s) for s in ("b", "a", "none")]
            found += [given, *streams, replace(given, prefetch=other)]
        return [k for k in dict.fromkeys(found) if k != best.plan.knobs]

    def run(self) -> None:
        """Emit the whole nest."""
        self.emit.line = self.ops[0].line
        # A result that is also read must not be computed twice.
        self.overlap = all(self.emit.buffers[name].kind != "inout" for name in self.stored)
        self.rows = TileRows(self.emit, self.shape, self.contraction.a, self.tensor, self.tiling, self.room)
        self.whole = self.rows.copy_everything() if self.tiling.stage == "whole" else None
        s = self.shape
        dims = [*s.batch, *s.m, *(s.n[-2:-1] if self.tiling.per else ())]
        if self.tiling.parallel in {d.name for d in dims}:
            self._slabs(sorted(dims, key=lambda d: d.name != self.tiling.parallel), {})
        else:
            with self.emit.loop("one", 1, parallel=True):
                self._slabs(dims, {})
        whole = {d.name: self.tiling.slab.get(d.name, 1) for d in s.m}
        if not self.parts.inside(whole):
            self.parts.apart(self.ragged)

    def _slabs(self, dims: list[Dim], tiles: Tiles) -> None:
        """Loops around slabs of rows, batches, and groups of columns where those are spread."""
        if not dims:
            self._one_slab(tiles)
            return
        d = dims[0]
        parallel = d.name == self.tiling.parallel
        if d in self.shape.n:
            found = self._column_groups(d, parallel)
        else:
            found = self.emit.tiles(d.name, d.extent, self.tiling.slab.get(d.name, 1), parallel)
        for tile in found:
            self._slabs(dims[1:], {**tiles, d.name: tile})

    def _column_groups(self, d: Dim, parallel: bool) -> Iterator[Tile]:
        """Groups of blocks of columns; a ragged last block is a group of its own."""
        last = self.ragged is not None
        yield from self.emit.tiles(d.name, d.extent - last, self.tiling.per, parallel)
        if last:
            with self.emit.loop(f"{d.name}_o", 1, parallel):
                yield Tile(Affine((), d.extent - 1), 1, Affine((), d.extent - 1))

    def _one_slab(self, tiles: Tiles) -> None:
        """One slab: its copy of A if it has one, then blocks of rows and columns."""
        self.slab = {d.name: tiles[d.name].size for d in self.shape.m}
        slab = self.tiling.stage == "slab"
        source = self.whole or (self.rows.copy_slab(tiles) if slab else self.rows.in_place())
        rows: list[_Loop] = [lambda t, d=d: self._row_blocks(d, t) for d in self.shape.m]  # type: ignore[misc]
        columns: list[_Loop] = [lambda t, d=d: self._columns(d, t) for d in self.shape.n]  # type: ignore[misc]
        order = [*self._packed(), *rows] if self.tiling.inner == "rows" else [*rows, *columns]
        for inside in self._nest(order, tiles):
            self._block(inside, source)
        if self.parts.inside({d.name: self.tiling.slab.get(d.name, 1) for d in self.shape.m}):
            for inside in self._nest(columns, tiles):
                self.parts.block(inside)

    def _nest(self, loops: list[_Loop], tiles: Tiles) -> Iterator[Tiles]:
        if not loops:
            yield tiles
            return
        for more in loops[0](tiles):
            yield from self._nest(loops[1:], {**tiles, **more})

    def _packed(self) -> list[_Loop]:
        """Loops over columns; where these are packed near, first those that pick what is packed."""
        near = self.columns if self.tiling.near else None
        outer = near.outer if near is not None else {}
        dims = sorted(self.shape.n, key=lambda d: d.name not in outer)
        loops: list[_Loop] = [lambda t, d=d: self._columns(d, t) for d in dims]  # type: ignore[misc]

        def pack(tiles: Tiles) -> Iterator[Tiles]:
            assert near is not None
            self.near = near.pack(self.emit, self.tensors, tiles)
            yield {}

        if near is not None:
            loops.insert(sum(d.name in outer for d in dims), pack)
        return loops

    def _row_blocks(self, d: Dim, tiles: Tiles) -> Iterator[Tiles]:
        """Blocks of one M dim within its slab, all of one size; the last may overlap the one before."""
        outer = tiles[d.name]
        size = min(self.tiling.rows.block.get(d.name, 1), outer.size)
        found = self.emit.tiles(d.name, outer.size, size)
        if self.overlap and outer.size % size:
            found = self._overlapping(d.name, outer.size, size)
        for t in found:
            yield {d.name: Tile(outer.base + t.base, t.size, t.order)}

    def _overlapping(self, name: str, extent: int, size: int) -> Iterator[Tile]:
        found = cover(extent, size)
        with self.emit.loop(f"{name}_o", found.count) as var:
            yield Tile(var * found.step, size, var)
        if found.tail:
            yield Tile(Affine((), extent - size), size, Affine((), found.count))

    def _columns(self, d: Dim, tiles: Tiles) -> Iterator[Tiles]:
        """Blocks of one N dim; the last block of ragged packed weights has fewer valid columns."""
        names = [n.name for n in self.shape.n]
        if d.name in tiles:  # a group of blocks, of which a parallel iteration has some
            group = tiles[d.name]
            with self.emit.loop(f"{d.name}_o", group.size) as var:
                yield {d.name: Tile(group.base + var, 1, var)}
            return
        if d.name == names[-1]:
            extent = d.extent
            if self.ragged is not None and tiles[names[-2]].base.is_const and self._last(tiles[names[-2]]):
                extent = self.ragged
            for t in self.emit.tiles(d.name, extent, min(self.tiling.columns, extent)):
                yield {d.name: t}
            return
        ragged = self.ragged is not None and d.name == names[-2]
        if d.extent > ragged:
            for t in self.emit.tiles(d.name, d.extent - ragged, 1):
                yield {d.name: t}
        if ragged:
            yield {d.name: Tile(Affine((), d.extent - 1), 1, Affine((), d.extent - 1))}

    def _last(self, tile: Tile) -> bool:
        return tile.base == Affine((), self.shape.n[-2].extent - 1)

    # One block.

    def _block(self, tiles: Tiles, source: Source) -> None:
        """Clear the accumulators, feed the cube, drain, and run the epilogue."""
        grid = self._grid(tiles)
        rows = [prod(box.values()) for _, box in grid.starts]
        acc = [
            [
                self._register("acc", self.shape.accumulator, r, width, "accumulator")
                for _, width in grid.columns
            ]
            for r in rows
        ]
        for chunk in self._chunks(list(self.shape.k), {}):
            self._multiply_block(tiles, grid, chunk, source, acc)
        drained = self.emit.local(
            "drained", self.shape.accumulator, [sum(rows), sum(w for _, w in grid.columns)], "scratch"
        )
        self._drain_block(drained, acc, rows, grid)
        for part, first in self._epilogue_blocks(tiles):
            self._finish(drained, part, first, tiles)

    def _register(self, hint: str, dtype: DType, rows: int, columns: int, role: str) -> str:
        return self.emit.local(hint, dtype, [rows, columns], role)

    def _grid(self, tiles: Tiles) -> Grid:
        block = {d.name: tiles[d.name].size for d in self.shape.m}
        last = tiles[self.shape.n[-1].name]
        width = self.machine.cube_shape[self.shape.operand][1]
        # Packed columns beyond the valid ones are zeros, so tiles keep their width there.
        limit = self.shape.n[-1].extent - last.base.const if last.base.is_const else last.size
        columns = tuple((at, min(width, limit - at)) for at in range(0, last.size, width))
        return Grid(self.tiling.rows.along, self.tiling.rows.boxes(block), columns)

    def _chunks(self, dims: list[Dim], chunk: Tiles) -> Iterator[Tiles]:
        if not dims:
            yield chunk
            return
        d = dims[0]
        for tile in self.emit.tiles(d.name, d.extent, self.tiling.chunk[d.name]):
            yield from self._chunks(dims[1:], {**chunk, d.name: tile})

    def _multiply_block(
        self, tiles: Tiles, grid: Grid, chunk: Tiles, source: Source, acc: list[list[str]]
    ) -> None:
        """One chunk of K: load every tile of both operands once, multiply every pair."""
        k = Axis("k_", tuple((d.name, chunk[d.name].size) for d in self.shape.k))
        dtype = self.tensor.dtype
        stream = self.tiling.stream
        a = []
        for start, box in grid.starts:
            name = self._register("a", dtype, prod(box.values()), k.size, "operand_a")
            rows = Axis("m_", tuple(box.items()))
            self._load(
                name, (rows, k), self._rows_at(source, tiles, chunk, grid.along, start, box), stream == "a"
            )
            a.append(name)
        b = []
        for at, width in grid.columns:
            name = self._register("b", dtype, k.size, width, "operand_b")
            self._load(
                name,
                (k, Axis("n_", ((self.shape.n[-1].name, width),))),
                self._columns_at(tiles, chunk, at),
                stream == "b",
            )
            b.append(name)
        if self.tiling.prefetch == "on" and not self.tiling.near:
            self._prefetch(tiles, chunk)
        m, n, kk = (Affine.var(x) for x in ("m_", "n_", "k_"))
        first = sum((t.order for t in chunk.values()), Affine())
        for i, (_, box) in enumerate(grid.starts):
            for j, (_, width) in enumerate(grid.columns):
                self.emit.emit(
                    "cube.mma", [("m_", prod(box.values())), ("n_", width), ("k_", k.size)],
                    [Access(acc[i][j], (m, n))], [Access(a[i], (m, kk)), Access(b[j], (kk, n))],
                    init=first, chain=self._chain(),
                )  # fmt: skip

    def _load(self, name: str, axes: tuple[Axis, Axis], source: Access, stream: bool) -> None:
        dims = [d for axis in axes for d in axis.dims]
        self.emit.emit(
            "copy_in.copy", dims, [Access(name, tuple(axis.flat() for axis in axes))], [source],
            hint="stream" if stream else "",
        )  # fmt: skip

    def _prefetch(self, tiles: Tiles, chunk: Tiles) -> None:
        """This block's part of the same chunk of the next columns: groups of K that no other block takes."""
        s, d = self.shape, self.shape.k[-2] if len(self.shape.k) > 1 else None
        if len(s.n) < 2 or d is None:
            return
        blocks = self.tiling.rows.blocks(self.slab)
        number, weight = Affine(), 1
        for m in reversed(s.m):
            number = number + tiles[m.name].order * weight
            weight *= self._count(m.name)
        part = -(-chunk[d.name].size // blocks)
        at = self._column_forms(tiles, chunk)
        at[d.name] = chunk[d.name].base + number * part + (Affine.var(d.name) if part > 1 else Affine())
        at[s.n[-2].name] = tiles[s.n[-2].name].base + 1
        last = s.n[-1]
        at[last.name] = Affine.var(last.name)
        b = self.contraction.b
        sizes = {k.name: chunk[k.name].size for k in s.k} | {d.name: part, last.name: last.extent}
        dims = list(sizes.items())
        source = memory_access(self.tensors[b.tensor], [f.substitute(at) for f in b.index])
        self.emit.emit("copy_in.prefetch", dims, [], [source], hint="l2")

    def _count(self, name: str) -> int:
        size = self.slab[name]
        return -(-size // min(self.tiling.rows.block.get(name, 1), size))

    def _rows_at(
        self, source: Source, tiles: Tiles, chunk: Tiles, along: str, start: int, box: dict[str, int]
    ) -> Access:
        at: dict[str, Affine | int] = {d.name: chunk[d.name].local(d.name) for d in self.shape.k}
        for d in self.shape.m:
            here = tiles[d.name].base - source.base.get(d.name, Affine())
            here = here + (start if d.name == along else 0)
            at[d.name] = here + (Affine.var(d.name) if box.get(d.name, 1) > 1 else Affine())
        for d in self.shape.batch:
            at[d.name] = tiles[d.name].base
        return Access(source.buffer, tuple(f.substitute(at) for f in source.index))

    def _columns_at(self, tiles: Tiles, chunk: Tiles, start: int) -> Access:
        b = self.contraction.b
        at = self._column_forms(tiles, chunk)
        last = self.shape.n[-1].name
        at[last] = tiles[last].base + Affine.var(last) + start
        if self.columns is not None and self.tiling.near:
            return self.columns.at(self.near, at)
        return memory_access(self.tensors[b.tensor], [f.substitute(at) for f in b.index])

    def _column_forms(self, tiles: Tiles, chunk: Tiles) -> dict[str, Affine | int]:
        at: dict[str, Affine | int] = {d.name: chunk[d.name].local(d.name) for d in self.shape.k}
        at.update({d.name: tiles[d.name].base for d in (*self.shape.batch, *self.shape.n)})
        return at

    def _drain_block(self, drained: str, acc: list[list[str]], rows: list[int], grid: Grid) -> None:
        m, n = Affine.var("m_"), Affine.var("n_")
        top = 0
        for row, count in zip(acc, rows, strict=True):
            for name, (at, width) in zip(row, grid.columns, strict=True):
                self.emit.emit(
                    "scale.drain", [("m_", count), ("n_", width)], [Access(drained, (m + top, n + at))],
                    [Access(name, (m, n))],
                )  # fmt: skip
            top += count

    def _epilogue_blocks(self, tiles: Tiles) -> Iterator[tuple[Tiles, Affine]]:
        """(M tiles of a few rows, the first of these rows in the drained block); all of one size."""
        names = self._block_order()
        sizes = {n: tiles[n].size for n in names}
        step = dict.fromkeys(names, 1)
        room = _EPILOGUE_ROWS
        for n in reversed(names):
            step[n] = max(t for t in range(1, min(room, sizes[n]) + 1) if sizes[n] % t == 0)
            room //= step[n]
            if step[n] < sizes[n]:
                break
        weights = {n: prod(sizes[o] for o in names[at + 1 :]) for at, n in enumerate(names)}
        # The longest loop outside: what runs beside it is spread over that one.
        loops = sorted(((n, sizes[n] // step[n], step[n]) for n in names), key=lambda x: -x[1])
        yield from self._steps(loops, weights, tiles, Affine())

    def _steps(
        self, loops: list[tuple[str, int, int]], weights: dict[str, int], tiles: Tiles, first: Affine
    ) -> Iterator[tuple[Tiles, Affine]]:
        if not loops:
            yield tiles, first
            return
        name, count, step = loops[0]
        with self.emit.loop(f"{name}_e", count) as var:
            base = var * step
            part = Tile(tiles[name].base + base, step, base)
            inside = {**tiles, name: part}
            yield from self._steps(loops[1:], weights, inside, first + base * weights[name])

    def _block_order(self) -> list[str]:
        """M dims as they number the rows of a drained block: slowest first."""
        rows = list(self.tiling.rows.block)
        return [*(d.name for d in self.shape.m if d.name not in rows), *rows]

    def _finish(self, drained: str, part: Tiles, first: Affine, tiles: Tiles) -> None:
        names = self._block_order()
        s = self.shape
        rows = Axis("m_", tuple((n, part[n].size) for n in names))
        cols = Axis("n_", tuple((d.name, tiles[d.name].size) for d in s.n))
        base = {d.name: part[d.name].base for d in (*s.batch, *s.m, *s.n)}
        frame = Frame((rows, cols), base)
        inner = {n: tiles[n].size for n in names}
        row, weight = first, 1
        for n in reversed(names):
            row = row + (Affine.var(n, weight) if part[n].size > 1 else Affine())
            weight *= inner[n]
        axes, dtype = frame.axes, s.accumulator
        out = self.emit.local("in", dtype, [a.size for a in axes], "vector")
        self.emit.emit(
            "copy_in.copy", frame.dims(axes), [Access(out, tuple(a.flat() for a in axes))],
            [Access(drained, (row, cols.flat()))],
        )  # fmt: skip
        self.epilogue.apply(frame, Value(Evaluator.at(out, axes), axes, dtype, True), {})
