"""Work on an operand of a contraction while it is loaded: memory, vector unit, staging memory.

The ops that make the operand run on the box that a tile of the contraction reads, so elements where boxes overlap
are made again. Positions outside the operand hold its fill value, never the ops' value of it: along axes that tiles
hold whole they are left out of the box and filled where the box is read; along others they are overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access, Imm
from opc.tensor.blocks import Block, cut
from opc.tensor.ir import Call, Expr, Op, Piece, Read, Tensor, walk
from opc.tensor.types import literal
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Pool, Tile, memory_access
from passes.lowering._expr import Evaluator, Value, no_load
from passes.lowering._stage import Box, boxes
from passes.lowering._store import by_dims, materialise
from passes.tensor._algebra import expr_dims, expr_reads

# Slots of a box that passes the vector unit's memory: one comes in or leaves while another is worked on.
_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Cell:
    """A box of the operand along one axis; ``low`` and ``high``: positions at either end that may lie outside.
    ``start`` and ``pitch``: where the positions lie in what is staged.
    """

    box: Box
    dim: str
    low: int = 0
    high: int = 0
    start: int = 0
    pitch: int = 1

    def segment(self, start: int, count: int, pitch: int, low: int, high: int) -> Cell:
        """Some positions of this cell."""
        box = replace(
            self.box, first=self.box.first + self.box.step * start, step=self.box.step * pitch, count=count
        )
        return Cell(box, self.dim, low, high, start, pitch)


@dataclass
class Prologue:
    """``ops`` make ``tensor``, pointwise and in order, for the contraction's ``read`` of the last one's output.
    ``room``: bytes next to the vector unit for a part of a box. ``slices``: of the contraction's dims that alone index
    an axis, how much its sum takes at a time; boxes are made slice by slice, so that it may begin with the first.
    """

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    read: Read
    extents: dict[str, int]  # of the contraction's dims
    room: int
    slices: dict[str, int]
    stored: bool = False  # in memory too, every element by the tile in whose middle it lies
    known: dict[Expr, Read] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    inside: dict[int, str] = field(default_factory=dict)  # axis -> conditions
    pool: Pool = field(default_factory=dict)  # buffers that the parts of a box share

    @property
    def tensor(self) -> Tensor:
        """What is made."""
        return self.ops[-1].outputs[0]

    def prepare(self, steady: set[str], moving: set[str]) -> None:
        """Evaluate, once for all boxes, what varies only along axes whose index uses none but ``steady`` dims, and
        where an index that uses ``moving`` dims is inside the operand.
        """
        piece = self.ops[-1].pieces[0]
        used = [frozenset(form.names) for form in self.read.index]
        names = {form.as_var() or "" for form, dims in zip(piece.index, used, strict=True) if dims <= steady}
        self.known, self.values, self.inside = {}, {}, {}
        line = self.emit.line
        for op in self.ops:
            self.emit.line = op.line
            for node in _constant(op.pieces[0].body, names, {t.name for o in self.ops for t in o.outputs}):
                if node not in self.known:
                    self._once(node, piece.extents)
        for axis, form in enumerate(self.read.index):
            low, high = form.interval(self.extents)
            if form.names & moving and (low < 0 or high >= self.tensor.shape[axis]):
                self.inside[axis] = self._inside(axis)
        self.emit.line = line

    def _once(self, node: Expr, extents: dict[str, int]) -> None:
        dims = sorted(expr_dims(node))
        frame = Frame(tuple(Axis(d, ((d, extents[d]),)) for d in dims), {d: Affine() for d in dims})
        ev = Evaluator(self.emit, frame, lambda read: self._load(read, frame, None))
        value = ev.widen(ev.value(node))
        assert isinstance(value.operand, Access)
        name = f"known.{len(self.known)}"
        self.known[node] = Read(name, tuple(Affine.var(d) for d in dims) or (Affine(),))
        self.values[name] = value

    def stage(self, frame: Frame, last: set[str]) -> Access:
        """Make the box that a tile reads, in the staging memory; the access by the tile's local dimensions."""
        tensor = self.tensor
        cells = [self._cell(b) for b in boxes(self.read, tensor, frame, last)]
        kept = [c for c in cells if c.box.count > 1] or cells[-1:]
        name = self.emit.local(f"{tensor.name}_stage", tensor.dtype, [c.box.count for c in kept], "stage")
        line = self.emit.line
        self.pool = {}
        edge = next((c for c in kept if c.low + c.high and c.box.count > c.low + c.high), None)
        for part in self._sliced(kept, edge):
            if edge is None:
                self._parts(name, cells, kept, part, self.room)
                continue
            segments = list(_segments(edge))
            room = self._shared_room(kept, edge, segments, part)
            for segment in segments:
                every, some = ([segment if c is edge else c for c in found] for found in (cells, kept))
                self._parts(name, every, some, part, room)
        self.emit.line = line
        return Access(name, tuple(c.box.local for c in kept))

    def _sliced(self, kept: list[Cell], edge: Cell | None) -> Iterator[dict[str, Tile]]:
        """Slices of the axis that the sum goes along, as thick as fits as a whole; the whole box if there is none."""
        found = next((c for c in kept if c is not edge and self._slice(c) < c.box.count), None)
        if found is None:
            yield {}
            return
        unit, count = self._slice(found), found.box.count
        fit = self.room // self._bytes([1 if c is found else c.box.count for c in kept])
        size = _part(count // unit, fit // unit) * unit if count % unit == 0 else max(1, fit // unit) * unit
        for tile in self.emit.tiles(found.dim, count, min(count, size)):
            yield {found.dim: tile}

    def _slice(self, c: Cell) -> int:
        """Positions of an axis that the sum takes at a time, in whole vectors; all if it takes all."""
        name = self.read.index[c.box.axis].as_var() or ""
        size = self.slices.get(name, c.box.count)
        lanes = max(1, self.emit.machine.vector_bytes // (self.tensor.dtype.compute.bytes))
        return size * -(-lanes // size)

    def _shared_room(self, kept: list[Cell], edge: Cell, segments: list[Cell], part: dict[str, Tile]) -> int:
        """Bytes for a part, if parts of the ends, unless they are as large as others, have buffers of their own."""
        sizes = {c.dim: part[c.dim].size if c.dim in part else c.box.count for c in kept}
        each = self._bytes(list({**sizes, edge.dim: 1}.values()))
        ends = max(c.box.count for c in segments[1:])
        fit = self.room // each
        if _part(segments[0].box.count, fit) == _part(ends, fit):
            return self.room
        # They are needed once a tile, and so in one slot.
        return self.room - min(ends * each // _SLOTS, self.room // 2)

    def _cell(self, b: Box) -> Cell:
        """What is made of a box: only what lies inside, where that is the same for all tiles."""
        extent = self.tensor.shape[b.axis]
        dim = self.ops[-1].pieces[0].index[b.axis].as_var()
        assert dim is not None, "fuse takes ops that write one dimension per axis"
        if b.first.is_const:
            inside = [i for i in range(b.count) if 0 <= b.first.const + b.step * i < extent]
            if not inside:  # any index will do, as none is read
                return Cell(replace(b, first=Affine(), count=1, local=b.local + 1), dim)
            first, count = inside[0], len(inside)
            return Cell(replace(b, first=b.first + b.step * first, count=count, local=b.local - first), dim)
        low, high = self.read.index[b.axis].interval(self.extents)
        last = high - b.step * (b.count - 1)  # where the last box begins
        under = sum(low + b.step * i < 0 for i in range(b.count))
        over = sum(last + b.step * i >= extent for i in range(b.count))
        return Cell(b, dim, under, over)

    def _parts(
        self, name: str, cells: list[Cell], kept: list[Cell], part: dict[str, Tile], room: int
    ) -> None:
        """Walk the box, slowest axis first, in parts of at most ``room`` bytes."""
        sizes = {c.dim: part[c.dim].size if c.dim in part else c.box.count for c in kept}
        left = next((c for c in kept if c.dim not in part), None)
        if left is None or self._bytes(list(sizes.values())) <= room:
            with self.emit.sharing(self.pool):
                self._make(name, cells, kept, part)
            return
        each, count = self._bytes(list({**sizes, left.dim: 1}.values())), left.box.count
        size = _part(count, room // each)
        tiles = self.emit.even_tiles if count % size else self.emit.tiles
        for tile in tiles(left.dim, count, size):
            self._parts(name, cells, kept, {**part, left.dim: tile}, room)

    def _bytes(self, sizes: list[int]) -> int:
        """Bytes of a part: what comes in and goes out in slots, and what is computed between."""
        inside = {t.name for op in self.ops for t in op.outputs}
        found = {n for op in self.ops for n in walk(op.pieces[0].body) if isinstance(n, Read)}
        whole = [
            r for r in found if r.tensor not in inside and len({v for f in r.index for v in f.names}) > 1
        ]
        each = _SLOTS * (self.tensor.dtype.bytes + sum(self.tensors[r.tensor].dtype.bytes for r in whole))
        return prod(sizes) * (each + 4 * max(1, len(whole)))

    def _make(self, name: str, cells: list[Cell], kept: list[Cell], part: dict[str, Tile]) -> None:
        """One part: load, compute, overwrite what lies outside, and hand over."""
        tiles = {c.dim: part.get(c.dim, Tile(Affine(), c.box.count, Affine())) for c in cells}
        blocks = {
            c.dim: Block(c.box.first + tiles[c.dim].base * c.box.step, tiles[c.dim].size, c.box.step)
            for c in cells
        }
        axes = tuple(Axis(c.dim, ((c.dim, tiles[c.dim].size),)) for c in kept)
        frame = Frame(axes, {a.name: Affine() for a in axes})
        outside = any(c.low or c.high for c in cells)
        bound: dict[str, Value] = {}
        ev = Evaluator(self.emit, frame, lambda read: self._bound(read, frame, bound, outside))
        for op in self.ops:
            self.emit.line = op.line
            piece = self._local(op.pieces[0], blocks)
            bound[op.name] = replace(ev.value(piece.body), temporary=op is self.ops[-1])
        value = materialise(ev, bound[self.tensor.name], frame.axes, self.tensor)
        assert isinstance(value.operand, Access)
        source = by_dims(value.operand, frame.axes)
        if self.stored:
            self._store(cells, tiles, source, frame)
        for c in cells:
            self._clear(c, tiles[c.dim], value.operand, frame)
        index = tuple(tiles[c.dim].local(c.dim) * c.pitch + c.start for c in kept)
        far = next((c for c in kept if c.pitch > 1), None)
        for at in range(far.box.count) if far is not None else (None,):
            # Ends far apart are handed over one by one: a copy that leaves holes would not count as writing anything.
            one: dict[str, Affine | int] = {far.dim: at} if far is not None and at is not None else {}
            places, inside = (tuple(f.substitute(one) for f in forms) for forms in (index, source.index))
            dims = [d for d in frame.dims(frame.axes) if d[0] not in one]
            self.emit.emit("copy_out.copy", dims, [Access(name, places)], [Access(source.buffer, inside)])

    def _store(self, cells: list[Cell], tiles: dict[str, Tile], source: Access, frame: Frame) -> None:
        """Store a part, unless it is an end of the box, which is in the middle of a neighbour's or lies outside."""
        if any(c.low + c.high for c in cells):
            return
        places = {c.box.axis: c.box.first + tiles[c.dim].local(c.dim) * c.box.step for c in cells}
        target = memory_access(self.tensor, [places[axis] for axis in range(len(places))])
        self.emit.emit("copy_out.copy", frame.dims(frame.axes), [target], [source])

    def _local(self, piece: Piece, blocks: dict[str, Block]) -> Piece:
        """The piece on a block, reading what is known already."""
        known = _replace(piece.body, self.known)
        moved = cut(replace(piece, body=known), blocks)
        assert moved is not None, "a box lies inside its operand"
        return moved

    def _bound(self, read: Read, frame: Frame, bound: dict[str, Value], outside: bool) -> Value:
        if read.tensor in bound:
            return bound[read.tensor]
        value = self.values.get(read.tensor)
        if value is None:
            return self._load(read, frame, 0 if outside and read.fill is None else read.fill)
        assert isinstance(value.operand, Access)
        return Value(Access(value.operand.buffer, read.index), frame.used(read.index), value.dtype, False)

    def _load(self, read: Read, frame: Frame, fill: float | int | None) -> Value:
        tensor = self.tensors[read.tensor]
        forms = [frame.global_form(f) for f in read.index]
        ev = Evaluator(self.emit, frame, no_load)
        return ev.dense(memory_access(tensor, forms), frame.used(forms), tensor.dtype, fill)

    def _inside(self, axis: int) -> str:
        """Conditions, one per index that the contraction uses: whether it is inside the operand."""
        low, high = self.read.index[axis].interval(self.extents)
        names = [self.emit.local("inside", DType.I32, [high - low + 1], "vector") for _ in range(2)]
        dims, i = [("i", high - low + 1)], Affine.var("i")
        first, second = (Access(name, (i,)) for name in names)
        self.emit.emit("vector.iota", dims, [first], [], form=i + low)
        self.emit.emit("vector.lt", dims, [second], [first, Imm(self.tensor.shape[axis])])
        self.emit.emit("vector.ge", dims, [first], [first, Imm(0)])
        self.emit.emit("vector.mul", dims, [first], [first, second])
        return names[0]

    def _clear(self, c: Cell, tile: Tile, value: Access, frame: Frame) -> None:
        """Overwrite positions of a part that lie outside the operand, in the tiles in which they do."""
        count, size, axis = c.box.count, tile.size, c.box.axis
        # A part at a variable position may be the first or the last.
        ends = [(0, min(c.low, size)), (size - min(c.high, size), size)]
        if tile.base.is_const:
            start = tile.base.const
            ends = [(0, min(max(c.low - start, 0), size)), (max(count - c.high - start, 0), size)]
        for first, behind in ends:
            if first >= behind:
                continue
            low, _ = self.read.index[axis].interval(self.extents)
            here = Affine.var(c.dim) if behind - first > 1 else Affine()
            at = c.box.first + (tile.base + here + first) * c.box.step - low
            holds = Access(self.inside.get(axis) or self._inside(axis), (at,))
            target = Access(value.buffer, tuple(f.substitute({c.dim: here + first}) for f in value.index))
            box = [(a.name, behind - first if a.name == c.dim else a.size) for a in frame.axes]
            fill = Imm(literal(self.read.fill or 0, self.tensor.dtype))
            self.emit.emit("vector.select", box, [target], [holds, target, fill])


def _part(count: int, most: int) -> int:
    """Size of parts: without a remainder if that is not much smaller than what fits."""
    most = max(1, min(most, count))
    even = max(t for t in range(1, most + 1) if count % t == 0)
    return even if 2 * even > most else most


def _segments(c: Cell) -> Iterator[Cell]:
    """What lies inside for all tiles apart from the ends, which take more work; single ends together."""
    count = c.box.count
    yield c.segment(c.low, count - c.low - c.high, 1, 0, 0)
    if c.low == c.high == 1:
        yield c.segment(0, 2, count - 1, 1, 1)
        return
    if c.low:
        yield c.segment(0, c.low, 1, c.low, 0)
    if c.high:
        yield c.segment(count - c.high, c.high, 1, 0, c.high)


def _constant(body: Expr, names: set[str], made: set[str]) -> list[Expr]:
    """The largest parts of an expression that read something and vary along ``names`` only."""
    if not isinstance(body, Call | Read):
        return []
    found = expr_reads(body)
    if found and expr_dims(body) <= names and not any(r.tensor in made for r in found):
        return [body]
    return [n for arg in body.args for n in _constant(arg, names, made)] if isinstance(body, Call) else []


def _replace(body: Expr, known: dict[Expr, Read]) -> Expr:
    """The expression with parts that are known replaced, largest first."""
    if body in known:
        return known[body]
    return Call(body.fn, tuple(_replace(a, known) for a in body.args)) if isinstance(body, Call) else body
