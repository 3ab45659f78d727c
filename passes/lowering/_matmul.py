"""Lowering of a contraction group: stage, feed the cube in chunks, run the epilogue on the tile, store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from opc.affine import Affine
from opc.program.ir import Access
from opc.tensor.ir import Dim, Op, Read, Tensor, walk
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._expr import Evaluator, Load, Value
from passes.lowering._plan import Plan, Shape, plan_registers, plan_spaces
from passes.lowering._stage import stage, staged_bytes
from passes.lowering._store import store
from passes.tensor._contraction import Contraction

Tiles = dict[str, Tile]

# Rows of an accumulator tile that one epilogue block holds in vector registers.
_EPILOGUE_ROWS = 4


@dataclass(frozen=True)
class Columns:
    """What is fixed once the N tile is: staged weights (None: staged per chunk) and per-column values."""

    weights: Access | None
    values: dict[Read, Value] = field(default_factory=dict)


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
        s = self.shape
        dims = [*s.batch, *s.n, *s.m] if self.through_stage else [*s.batch, *s.m]
        if self.plan.columns:
            dims.append(s.n[-2])
        if self.plan.parallel in {d.name for d in dims}:
            self._outer(sorted(dims, key=lambda d: d.name != self.plan.parallel), {}, None)
            return
        # Every statement of a program belongs to a parallel loop, if only of one iteration.
        with self.emit.loop("one", 1, parallel=True):
            self._outer(dims, {}, None)

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
        tile_reads = {
            r
            for op in self.ops[1:]
            for r in walk(op.pieces[0].body)
            if isinstance(r, Read) and not self._internal(r) and any(f.names & rows for f in r.index)
        }
        return Shape(
            c.batch, m, c.n, contraction_order(c, mixed), operand, self.machine.accumulators[operand], reach,
            prod(k.extent for k in self.channels), 2 + len(tile_reads),
        )  # fmt: skip

    def _internal(self, read: Read) -> bool:
        return any(t.name == read.tensor for op in self.ops for t in op.outputs)

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

    def _outer(self, dims: list[Dim], tiles: Tiles, columns: Columns | None) -> None:
        fixed = {d.name for d in (*self.shape.batch, *self.shape.n)}
        if self.through_stage and columns is None and not fixed & {d.name for d in dims}:
            columns = self._columns(tiles)
        if not dims:
            self._slab(tiles, columns)
            return
        d = dims[0]
        for tile in self._tiles(d, self.plan.outer[d.name], tiles, d.name == self.plan.parallel):
            self._outer(dims[1:], {**tiles, d.name: tile}, columns)

    def _frame(self, tiles: Tiles, chunk: Tiles | None = None) -> Frame:
        """Axes: rows, columns, one per K dim. Dims without a tile are whole."""
        s = self.shape
        table = {**tiles, **(chunk or {})}

        def sized(dims: tuple[Dim, ...]) -> tuple[tuple[str, int], ...]:
            return tuple((d.name, table[d.name].size if d.name in table else d.extent) for d in dims)

        axes = (Axis("m_", sized(s.m)), Axis("n_", sized(s.n)), *(Axis(k[0], (k,)) for k in sized(s.k)))
        every = (*s.batch, *s.m, *s.n, *s.k)
        return Frame(axes, {d.name: table[d.name].base if d.name in table else Affine() for d in every})

    def _columns(self, tiles: Tiles) -> Columns:
        """Stage the weights of this N tile if they fit, and load values that vary only over columns."""
        b = self.contraction.b
        frame = self._frame(tiles)
        weights = None
        # A quarter: the slab of A wants its share, and both are double-buffered.
        if staged_bytes(b, self.tensors[b.tensor], frame) <= self.machine.role("stage").capacity // 4:
            weights = self._stage(b, frame, self.shape.n)
        values: dict[Read, Value] = {}
        rows = {d.name for d in self.shape.m}
        ev = Evaluator(self.emit, self._tile_frame(tiles), self._load({}, None, tiles))
        for op in self.ops[1:]:
            self.emit.line = op.line
            for node in walk(op.pieces[0].body):
                if (
                    isinstance(node, Read)
                    and not self._internal(node)
                    and not any(f.names & rows for f in node.index)
                ):
                    values[node] = _kept(ev.widen(ev.load(node)))
        self.emit.line = self.ops[0].line
        return Columns(weights, values)

    def _stage(self, read: Read, frame: Frame, last: tuple[Dim, ...]) -> Access:
        names = {d.name for d in last}
        return stage(self.emit, read, self.tensors[read.tensor], frame, "stage", names, self.shape.operand)

    def _slab(self, tiles: Tiles, columns: Columns | None) -> None:
        """One staged slab of A, and the cube tiles inside it."""
        a = self.contraction.a
        frame = self._frame(tiles)
        if self.through_stage:
            fits = staged_bytes(a, self.tensors[a.tensor], frame) <= self.machine.role("stage").capacity // 4
            slab = self._stage(a, frame, self.channels) if fits else None
            self._tile(tiles, tiles, slab, columns)
            return
        ready = a.fill is None and self.tensors[a.tensor].dtype is self.shape.operand
        slab = None if ready else self._stage(a, frame, self.channels)
        self._inner([*self.shape.n, *self.shape.m], tiles, {}, slab)

    def _inner(self, dims: list[Dim], tiles: Tiles, inside: Tiles, slab: Access | None) -> None:
        """Register blocks within a slab: N outside, so that a block of weights stays near."""
        if not dims:
            self._tile({**tiles, **inside}, inside, slab, None)
            return
        d = dims[0]
        if d in self.shape.n and d.name not in tiles:
            for tile in self._tiles(d, self.plan.outer[d.name], {**tiles, **inside}):
                self._inner(dims[1:], tiles, {**inside, d.name: tile}, slab)
            return
        outer = tiles[d.name]
        for tile in self.emit.even_tiles(d.name, outer.size, min(self.plan.inner.get(d.name, 1), outer.size)):
            whole = Tile(outer.base + tile.base, tile.size, tile.base)
            self._inner(dims[1:], tiles, {**inside, d.name: whole}, slab)

    def _tile(self, tiles: Tiles, inside: Tiles, slab: Access | None, columns: Columns | None) -> None:
        """One accumulator tile: chunks of K into the cube, then the epilogue."""
        frame = self._tile_frame(tiles)
        rows, cols = frame.axes
        acc = self.emit.local("acc", self.shape.accumulator, [rows.size, cols.size], self.accumulator)
        for chunk in self._chunks(list(self.shape.k), {}):
            if self.fed:
                self._feed(tiles, inside, chunk, slab, columns, acc)
            else:
                self._multiply(tiles, inside, chunk, slab, acc)
        self._epilogue(tiles, frame, acc, columns)

    def _chunks(self, dims: list[Dim], chunk: Tiles) -> Iterator[Tiles]:
        if not dims:
            yield chunk
            return
        d = dims[0]
        for tile in self.emit.tiles(d.name, d.extent, self.plan.chunk[d.name]):
            yield from self._chunks(dims[1:], {**chunk, d.name: tile})

    def _feed(
        self,
        tiles: Tiles,
        inside: Tiles,
        chunk: Tiles,
        slab: Access | None,
        columns: Columns | None,
        acc: str,
    ) -> None:
        """Copy one chunk of both operands to the operand spaces and multiply."""
        frame = self._frame(tiles, chunk)
        rows, cols, *ks = frame.axes
        k = Axis("k_", tuple(d for a in ks for d in a.dims))
        c = self.contraction
        a_source = self._operand(c.a, frame, slab, {**chunk, **self._within(inside)})
        b_source = self._operand(c.b, frame, columns.weights if columns else None, chunk)
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

    def _load(self, internal: dict[str, Value], columns: Columns | None, tiles: Tiles) -> Load:
        frame = self._tile_frame(tiles)

        def load(read: Read) -> Value:
            if read.tensor in internal:
                return internal[read.tensor]
            if columns is not None and read in columns.values:
                return columns.values[read]
            tensor = self.tensors[read.tensor]
            forms = [frame.global_form(f) for f in read.index]
            ev = Evaluator(self.emit, frame, load)
            return ev.dense(memory_access(tensor, forms), frame.used(forms), tensor.dtype, read.fill)

        return load

    def _epilogue(self, tiles: Tiles, frame: Frame, acc: str, columns: Columns | None) -> None:
        """Bring the accumulator within reach of the vector unit, then run the epilogue on it."""
        axes = frame.axes
        ev = Evaluator(self.emit, frame, self._load({}, columns, tiles))
        source, dtype = ev.at(acc, axes), self.shape.accumulator
        vector = self.machine.role("vector")
        if self.machine.roles[self.accumulator] == vector.name:
            self._apply(tiles, Value(source, axes, dtype, True), columns)
            return
        drained = self.emit.local(
            "drained", dtype, [a.size for a in axes], "vector" if vector.addressable else "scratch"
        )
        self.emit.emit("scale.drain", frame.axis_dims(axes), [ev.at(drained, axes)], [source])
        if vector.addressable:
            self._apply(tiles, Value(ev.at(drained, axes), axes, dtype, True), columns)
            return
        self._row_blocks(tiles, frame, drained, columns)

    def _row_blocks(self, tiles: Tiles, frame: Frame, drained: str, columns: Columns | None) -> None:
        """The epilogue in blocks of rows that fit the register file."""
        for block, shift in self._blocks(tiles):
            sub = self._tile_frame(block)
            source = _at(Access(drained, tuple(a.flat() for a in frame.axes)), shift)
            ev = Evaluator(self.emit, sub, self._load({}, columns, block))
            self._apply(block, ev.dense(source, sub.axes, self.shape.accumulator, None), columns)

    def _blocks(self, tiles: Tiles) -> Iterator[tuple[Tiles, Tiles]]:
        """(tiles of a block of rows, the block within the accumulator tile)."""
        if not self.shape.m:
            yield tiles, {}
            return
        q = self.shape.m[-1].name
        whole = tiles[q]
        for t in self.emit.even_tiles(f"{q}_e", whole.size, min(_EPILOGUE_ROWS, whole.size)):
            yield {**tiles, q: Tile(whole.base + t.base, t.size, t.order)}, {q: t}

    def _apply(self, tiles: Tiles, value: Value, columns: Columns | None) -> None:
        """Every op of the group on one tile whose contraction value is at hand."""
        internal: dict[str, Value] = {}
        ev = Evaluator(self.emit, self._tile_frame(tiles), self._load(internal, columns, tiles))
        self._finish(ev, self.ops[0], value, internal)
        for op in self.ops[1:]:
            self.emit.line = op.line
            self._finish(ev, op, ev.value(op.pieces[0].body), internal)
        self.emit.line = self.ops[0].line

    def _finish(self, ev: Evaluator, op: Op, value: Value, internal: dict[str, Value]) -> None:
        """Bind an op's value for the ops after it, and store it if it leaves the group."""
        out = op.outputs[0]
        if not out.dtype.is_float and value.dtype is not out.dtype:
            value = ev.convert(value, out.dtype)  # integers wrap or saturate in their own type
        if out.name in self.stored:
            store(ev, value, op.pieces[0], out)
        # A value that several ops read must not be overwritten by the first of them.
        internal[out.name] = value if self._readers(out.name) == 1 else _kept(value)

    def _readers(self, name: str) -> int:
        return sum(
            any(isinstance(n, Read) and n.tensor == name for n in walk(o.pieces[0].body)) for o in self.ops
        )


def contraction_order(c: Contraction, mixed: set[str]) -> tuple[Dim, ...]:
    """K dims outermost first: window dims, then the dims that alone index an axis (channels), which are contiguous."""
    return tuple(sorted(c.k, key=lambda d: d.name not in mixed))


def _kept(value: Value) -> Value:
    return Value(value.operand, value.axes, value.dtype, False)


def _at(access: Access, tiles: Tiles) -> Access:
    """An access over whole staged dims restated for blocks of them."""
    shift: dict[str, Affine | int] = {name: t.local(name) for name, t in tiles.items()}
    return Access(access.buffer, tuple(f.substitute(shift) for f in access.index), access.slot)


def _order(chunk: Tiles) -> Affine:
    total = Affine()
    for t in chunk.values():
        total = total + t.order
    return total
