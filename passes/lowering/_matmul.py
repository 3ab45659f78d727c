"""Lowering of a contraction group: stage, feed the cube in chunks, run the epilogue on the tile, store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

from opc.affine import Affine
from opc.program.ir import Access
from opc.tensor.ir import Dim, Op, Read, Tensor
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._epilogue import Epilogue
from passes.lowering._expr import Evaluator, Value
from passes.lowering._plan import Plan, Shape, plan_registers, plan_spaces
from passes.lowering._stage import stage, staged_bytes
from passes.tensor._contraction import Contraction

Tiles = dict[str, Tile]

# Rows of an accumulator tile that one epilogue block holds in vector registers.
_EPILOGUE_ROWS = 4


@dataclass(frozen=True)
class Staged:
    """What stays on chip while a tile's other dims go round: staged operands (None: staged per chunk), values
    that vary only over columns, and whether each has been dealt with.
    """

    rows: Access | None = None
    weights: Access | None = None
    values: dict[Read, Value] = field(default_factory=dict)
    rows_done: bool = False
    columns_done: bool = False


@dataclass
class ContractionNest:
    """Emits one contraction group. ``stored`` names the group's outputs that leave it."""

    emit: Emitter
    ops: tuple[Op, ...]
    contraction: Contraction
    tensors: dict[str, Tensor]
    stored: frozenset[str]

    def __post_init__(self) -> None:
        self.piece = self.ops[0].pieces[0]
        self.machine = self.emit.machine
        self.epilogue = Epilogue(self.emit, self.ops, self.tensors, self.stored)
        self.shape = self._shape()
        # A fed cube gets its operands by copies; otherwise it reads memory itself.
        self.fed = self.machine.feeds(self.shape.operand)
        self.accumulator = self.machine.accumulator_role(self.shape.operand)
        memory, roles = self.machine.roles["memory"], self.machine.roles
        direct = not self.fed or self.machine.route("copy_in", memory, roles["operand_b"]) is not None
        # Operands that cannot come straight from memory pass through the stage space.
        self.through_stage = not direct
        self.plan: Plan = (plan_spaces if self.through_stage else plan_registers)(self.shape, self.machine)
        self.ragged = self._ragged()

    def run(self) -> None:
        """Emit the whole nest."""
        self.emit.line = self.ops[0].line
        dims = self._order()
        if self.plan.parallel in {d.name for d in dims}:
            self._outer(sorted(dims, key=lambda d: d.name != self.plan.parallel), {}, Staged())
            return
        # Every statement of a program belongs to a parallel loop, if only of one iteration.
        with self.emit.loop("one", 1, parallel=True):
            self._outer(dims, {}, Staged())

    def _order(self) -> list[Dim]:
        """Loops at the staging level, outermost first (the parallel one moves in front)."""
        s = self.shape
        if self.through_stage:
            return [*s.batch, *s.m, *s.n] if self.plan.rows_outer else [*s.batch, *s.n, *s.m]
        return [*s.batch, *s.m, *(s.n[-2:-1] if self.plan.columns else ())]

    def _shape(self) -> Shape:
        c = self.contraction
        out = self.ops[0].outputs[0]
        rank = {axis: i for i, axis in enumerate(out.memory_order)}

        def place(d: Dim) -> int:
            return min(rank[axis] for axis, f in enumerate(self.piece.index) if f.coefficient(d.name))

        m = tuple(sorted(c.m, key=place))
        mixed = {
            k.name
            for k in c.k
            for f in c.a.index
            if f.coefficient(k.name) and any(f.coefficient(d.name) for d in m)
        }
        extents = self.piece.extents
        reach = {}
        for d in m:
            form = next(f for f in c.a.index if f.coefficient(d.name))
            extra = sum(abs(form.coefficient(k.name)) * (extents[k.name] - 1) for k in c.k)
            reach[d.name] = (abs(form.coefficient(d.name)), extra)
        self.channels = tuple(k for k in c.k if k.name not in mixed)
        operand = self.tensors[c.a.tensor].dtype
        # Where packing widened B, rows are widened too: once, when they are staged.
        operand = operand if self.machine.feeds(operand) else self.tensors[c.b.tensor].dtype
        rows = {d.name for d in m}
        tile_reads = {r for _, r in self.epilogue.external_reads() if any(f.names & rows for f in r.index)}
        return Shape(
            c.batch, m, c.n, contraction_order(c, mixed), operand, self.machine.accumulators[operand], reach,
            prod(k.extent for k in self.channels), 2 + len(tile_reads),
        )  # fmt: skip

    def _ragged(self) -> int | None:
        """Valid columns of the last block of packed weights, from the guard that packing left."""
        if not self.piece.guards:
            return None
        block, inner = self.shape.n[-2:]
        return self.piece.guards[0].const + 1 - (block.extent - 1) * inner.extent

    def _tiles(self, d: Dim, size: int, tiles: Tiles, parallel: bool = False) -> Iterator[Tile]:
        """Blocks of one dim; the last block of ragged packed weights is peeled and then narrowed."""
        if self.ragged is None or d.name not in {n.name for n in self.shape.n[-2:]}:
            yield from self.emit.tiles(d.name, d.extent, size, parallel)
            return
        block = self.shape.n[-2]
        if d.name != block.name:
            last = tiles[block.name].base == Affine((), block.extent - 1)
            extent = self.ragged if last else d.extent
            yield from self.emit.tiles(d.name, extent, min(size, extent), parallel)
            return
        if d.extent > 1:
            yield from self.emit.tiles(d.name, d.extent - 1, 1, parallel)
        with self.emit.loop(f"{d.name}_o", 1, parallel):
            yield Tile(Affine((), d.extent - 1), 1, Affine((), d.extent - 1))

    def _outer(self, dims: list[Dim], tiles: Tiles, staged: Staged) -> None:
        if self.through_stage:
            staged = self._stage_ready({d.name for d in dims}, tiles, staged)
        if not dims:
            self._slab(tiles, staged)
            return
        d = dims[0]
        for tile in self._tiles(d, self.plan.outer[d.name], tiles, d.name == self.plan.parallel):
            self._outer(dims[1:], {**tiles, d.name: tile}, staged)

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

    def _frame(self, tiles: Tiles, chunk: Tiles | None = None) -> Frame:
        """Axes: rows, columns, one per K dim. Dims without a tile are whole."""
        s = self.shape
        table = {**tiles, **(chunk or {})}

        def sized(dims: tuple[Dim, ...]) -> tuple[tuple[str, int], ...]:
            return tuple((d.name, table[d.name].size if d.name in table else d.extent) for d in dims)

        axes = (Axis("m_", sized(s.m)), Axis("n_", sized(s.n)), *(Axis(k[0], (k,)) for k in sized(s.k)))
        every = (*s.batch, *s.m, *s.n, *s.k)
        return Frame(axes, {d.name: table[d.name].base if d.name in table else Affine() for d in every})

    def _stage(self, read: Read, frame: Frame, last: tuple[Dim, ...]) -> Access:
        names = {d.name for d in last}
        return stage(self.emit, read, self.tensors[read.tensor], frame, "stage", names, self.shape.operand)

    def _slab(self, tiles: Tiles, staged: Staged) -> None:
        """One slab of rows, and the cube tiles inside it."""
        if self.through_stage:
            self._tile(tiles, tiles, staged)
            return
        a = self.contraction.a
        ready = a.fill is None and self.tensors[a.tensor].dtype is self.shape.operand
        rows = None if ready else self._stage(a, self._frame(tiles), self.channels)
        self._inner([*self.shape.n, *self.shape.m], tiles, {}, Staged(rows))

    def _inner(self, dims: list[Dim], tiles: Tiles, inside: Tiles, staged: Staged) -> None:
        """Register blocks within a slab: N outside, so that a block of weights stays near."""
        if not dims:
            self._tile({**tiles, **inside}, inside, staged)
            return
        d = dims[0]
        if d in self.shape.n and d.name not in tiles:
            for tile in self._tiles(d, self.plan.outer[d.name], {**tiles, **inside}):
                self._inner(dims[1:], tiles, {**inside, d.name: tile}, staged)
            return
        outer = tiles[d.name]
        for tile in self.emit.even_tiles(d.name, outer.size, min(self.plan.inner.get(d.name, 1), outer.size)):
            whole = Tile(outer.base + tile.base, tile.size, tile.base)
            self._inner(dims[1:], tiles, {**inside, d.name: whole}, staged)

    def _tile(self, tiles: Tiles, inside: Tiles, staged: Staged) -> None:
        """One accumulator tile: chunks of K into the cube, then the epilogue."""
        frame = self._tile_frame(tiles)
        rows, cols = frame.axes
        acc = self.emit.local("acc", self.shape.accumulator, [rows.size, cols.size], self.accumulator)
        for chunk in self._chunks(list(self.shape.k), {}):
            if self.fed:
                self._feed(tiles, inside, chunk, staged, acc)
            else:
                self._multiply(tiles, inside, chunk, staged.rows, acc)
        self._drain(tiles, frame, acc, staged)

    def _chunks(self, dims: list[Dim], chunk: Tiles) -> Iterator[Tiles]:
        if not dims:
            yield chunk
            return
        d = dims[0]
        for tile in self.emit.tiles(d.name, d.extent, self.plan.chunk[d.name]):
            yield from self._chunks(dims[1:], {**chunk, d.name: tile})

    def _feed(self, tiles: Tiles, inside: Tiles, chunk: Tiles, staged: Staged, acc: str) -> None:
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
            "copy_in.copy", frame.dims((rows, *ks)), [Access(a, (rows.flat(), k.flat()))], [a_source]
        )
        self.emit.emit(
            "copy_in.copy", frame.dims((*ks, cols)), [Access(b, (k.flat(), cols.flat()))], [b_source]
        )
        m, n, kk = (Affine.var(x) for x in ("m_", "n_", "k_"))
        self.emit.emit(
            "cube.mma",
            [("m_", rows.size), ("n_", cols.size), ("k_", k.size)],
            [Access(acc, (m, n))],
            [Access(a, (m, kk)), Access(b, (kk, n))],
            init=_order(chunk),
            chain=self._chain(),
        )

    def _multiply(self, tiles: Tiles, inside: Tiles, chunk: Tiles, slab: Access | None, acc: str) -> None:
        """One register block straight from memory and the slab."""
        frame = self._frame(tiles, chunk)
        rows, cols, *ks = frame.axes
        c = self.contraction
        a = self._operand(c.a, frame, slab, {**chunk, **self._within(inside)})
        dims = [*frame.dims((rows, cols)), *frame.dims(ks)]
        self.emit.emit(
            "cube.mma", dims, [Access(acc, (rows.flat(), cols.flat()))], [a, self._direct(c.b, frame)],
            init=_order(chunk), chain=self._chain(),
        )  # fmt: skip

    def _within(self, inside: Tiles) -> Tiles:
        """M tiles as offsets in the slab, which ``order`` of an inside tile holds; empty if the tile is the slab."""
        if self.through_stage:
            return {}
        return {d.name: Tile(inside[d.name].order, inside[d.name].size, Affine()) for d in self.shape.m}

    def _operand(self, read: Read, frame: Frame, staged: Access | None, blocks: Tiles) -> Access:
        """Where one block of an operand is read: what is staged already, memory, or a block staged now."""
        if staged is not None:
            return _at(staged, blocks)
        if not self.through_stage:
            return self._direct(read, frame)
        return self._stage(read, frame, self.channels if read == self.contraction.a else self.shape.n)

    def _direct(self, read: Read, frame: Frame) -> Access:
        return memory_access(self.tensors[read.tensor], [frame.global_form(f) for f in read.index])

    def _chain(self) -> int:
        return prod(d.extent for d in self.shape.k)

    def _tile_frame(self, tiles: Tiles) -> Frame:
        whole = self._frame(tiles)
        return Frame(whole.axes[:2], whole.base)

    def _drain(self, tiles: Tiles, frame: Frame, acc: str, staged: Staged) -> None:
        """Bring the accumulator within reach of the vector unit, then run the epilogue on it."""
        axes, dtype = frame.axes, self.shape.accumulator
        source = Evaluator.at(acc, axes)
        vector = self.machine.role("vector")
        if self.machine.roles[self.accumulator] == vector.name:
            self.epilogue.apply(frame, Value(source, axes, dtype, True), staged.values)
            return
        role = "vector" if vector.addressable else "scratch"
        drained = self.emit.local("drained", dtype, [a.size for a in axes], role)
        target = Evaluator.at(drained, axes)
        self.emit.emit("scale.drain", frame.axis_dims(axes), [target], [source])
        if vector.addressable:
            self.epilogue.apply(frame, Value(target, axes, dtype, True), staged.values)
            return
        for block, shift in self._blocks(tiles):
            # As many rows at a time as the register file holds.
            sub = self._tile_frame(block)
            part = _at(Access(drained, tuple(a.flat() for a in axes)), shift)
            self.epilogue.apply(sub, self._reload(part, sub), staged.values)

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


def contraction_order(c: Contraction, mixed: set[str]) -> tuple[Dim, ...]:
    """K dims outermost first: window dims, then the dims that alone index an axis (channels), which are contiguous."""
    return tuple(sorted(c.k, key=lambda d: d.name not in mixed))


def _at(access: Access, tiles: Tiles) -> Access:
    """An access over whole staged dims restated for blocks of them."""
    shift: dict[str, Affine | int] = {name: t.local(name) for name, t in tiles.items()}
    return Access(access.buffer, tuple(f.substitute(shift) for f in access.index), access.slot)


def _order(chunk: Tiles) -> Affine:
    total = Affine()
    for t in chunk.values():
        total = total + t.order
    return total
