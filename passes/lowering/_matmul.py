"""Lowering of a contraction group: loops over slabs and accumulator tiles, and the epilogue on each tile.

What is staged and how the cube gets its operands is the part of `_matmul_registers` (it reads memory),
`_matmul_tiles` (operands are copied in) and `_matmul_spaces` (they pass through a staging memory).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Access
from opc.tensor.ir import Dim, Function, Op, Read, Tensor
from opc.tensor.roles import roles_of
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._epilogue import Epilogue
from passes.lowering._expr import Evaluator, Value
from passes.lowering._first import start
from passes.lowering._knobs import Knobs
from passes.lowering._packing import packing_of, run_of
from passes.lowering._parts import Parts
from passes.lowering._plan import Plan, Shape
from passes.lowering._stage import stage
from passes.tensor._contraction import Contraction
from passes.tensor._outer_products import apart
from passes.tensor._prologue import vector_cycles

Tiles = dict[str, Tile]


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
    knobs: Knobs
    packing: Op | None = None  # makes operand B at run time, for this contraction alone
    licensed: bool = False  # sums of floats may start from what is added to them

    on_chip: ClassVar[bool] = False  # reductions take their terms from tiles, not from what is stored of them

    def __post_init__(self) -> None:
        found = roles_of(self.ops)
        self.before = found.before if found is not None else ()
        self.ops = found.inside if found is not None else self.ops
        summed = found.statistics if found is not None and not self.on_chip else ()
        self.ops = tuple(op for op in self.ops if op not in summed)
        self.piece = self.ops[0].pieces[0]
        self.machine = self.emit.machine
        exact = not self.ops[0].outputs[0].dtype.is_float
        self.first = self._first() if self.licensed or exact else None
        self.epilogue = Epilogue(self.emit, self.ops, self.tensors, self.stored, first=self.first)
        self.shape = self._shape()
        self.accumulator = self.machine.accumulator_role(self.shape.operand)
        self.ragged = self._ragged()
        self.parts = Parts(self.emit, summed, self.tensors, self.stored, self.shape)
        self.choose()

    def choose(self) -> None:
        """Decide on tile sizes."""
        self.plan = self.plan_of(self.shape)

    def plan_of(self, shape: Shape) -> Plan:
        """Tile sizes for this kind of machine."""
        raise NotImplementedError

    def _first(self) -> tuple[Op, Read] | None:
        """What the sum starts from, and the op that would add it; the nest's ops then go without."""
        return None

    @property
    def packs(self) -> bool:
        """Whether the nest does the work of ``packing`` itself."""
        return False

    @staticmethod
    def packing_of(c: Contraction, function: Function) -> Op | None:
        """The op whose work the nest might do itself."""
        return packing_of(c, function)

    def alternatives(self) -> list[Knobs]:
        """Other plans worth timing, best estimate first."""
        return []

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
        operand = operand_type(c, self.tensors, self.machine)
        rows = {d.name for d in m}
        tile_reads = {r for _, r in self.epilogue.external_reads() if any(f.names & rows for f in r.index)}
        return Shape(
            c.batch, m, c.n, contraction_order(c, mixed), operand, self.machine.accumulators[operand], reach,
            prod(k.extent for k in self.channels), 2 + len(tile_reads),
            {d.name: apart(self.tensors[c.a.tensor], c.a, d.name) for d in m},
            vector_cycles(self.before, c, self.tensors, self.machine) if self.before else 0.0,
            sum(op.monoid is not None for op in self.ops[1:]),
            run_of(self.packing, self.tensors, c.b, c.n[-1].name) if self.packing is not None else None,
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
        if not dims:
            self._slab(tiles, staged)
            return
        d = dims[0]
        for tile in self._tiles(d, self.plan.outer[d.name], tiles, d.name == self.plan.parallel):
            self._outer(dims[1:], {**tiles, d.name: tile}, staged)

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
        """One slab of rows, and the accumulator tiles inside it."""
        raise NotImplementedError

    def _tile(self, tiles: Tiles, inside: Tiles, staged: Staged) -> None:
        """One accumulator tile: chunks of K into the cube, then the epilogue."""
        frame = self._tile_frame(tiles)
        rows, cols = frame.axes
        acc = self.emit.local("acc", self.shape.accumulator, [rows.size, cols.size], self.accumulator)
        if self.first is not None:
            start(self.emit, frame, acc, staged.values[self.first[1]])
        for chunk in self._chunks(list(self.shape.k), {}):
            self._multiply(tiles, inside, chunk, staged, acc)
        self._drain(tiles, frame, acc, staged)

    def _multiply(self, tiles: Tiles, inside: Tiles, chunk: Tiles, staged: Staged, acc: str) -> None:
        """Add the products of one chunk of K to an accumulator tile."""
        raise NotImplementedError

    def _chunks(self, dims: list[Dim], chunk: Tiles) -> Iterator[Tiles]:
        if not dims:
            yield chunk
            return
        d = dims[0]
        for tile in self.emit.tiles(d.name, d.extent, self.plan.chunk[d.name]):
            yield from self._chunks(dims[1:], {**chunk, d.name: tile})

    def _within(self, inside: Tiles) -> Tiles:
        """M tiles as offsets in the slab, which ``order`` of an inside tile holds."""
        return {d.name: Tile(inside[d.name].order, inside[d.name].size, Affine()) for d in self.shape.m}

    def _operand(self, read: Read, frame: Frame, staged: Access | None, blocks: Tiles) -> Access:
        """Where one block of an operand is read: what is staged already, or memory."""
        return self._direct(read, frame) if staged is None else at(staged, blocks)

    def _direct(self, read: Read, frame: Frame) -> Access:
        return memory_access(self.tensors[read.tensor], [frame.global_form(f) for f in read.index])

    def _chain(self) -> int:
        return prod(d.extent for d in self.shape.k)

    def _tile_frame(self, tiles: Tiles) -> Frame:
        whole = self._frame(tiles)
        return Frame(whole.axes[:2], whole.base)

    def _drain(self, tiles: Tiles, frame: Frame, acc: str, staged: Staged) -> None:
        """Run the epilogue on the accumulator, which the vector unit reads itself."""
        axes, dtype = frame.axes, self.shape.accumulator
        self.epilogue.apply(frame, Value(Evaluator.at(acc, axes), axes, dtype, True), staged.values)


def operand_type(c: Contraction, tensors: dict[str, Tensor], machine: Machine) -> DType:
    """What the cube multiplies. Where packing widened B, rows are widened too: once, when they are staged."""
    a, b = tensors[c.a.tensor].dtype, tensors[c.b.tensor].dtype
    return a if machine.feeds(a) and machine.feeds(b) else b


def contraction_order(c: Contraction, mixed: set[str]) -> tuple[Dim, ...]:
    """K dims outermost first: window dims, then the dims that alone index an axis (channels), which are contiguous."""
    return tuple(sorted(c.k, key=lambda d: d.name not in mixed))


def at(access: Access, tiles: Tiles) -> Access:
    """An access over whole staged dims restated for blocks of them."""
    shift: dict[str, Affine | int] = {name: t.local(name) for name, t in tiles.items()}
    return Access(access.buffer, tuple(f.substitute(shift) for f in access.index), access.slot)


def order(chunk: Tiles) -> Affine:
    total = Affine()
    for t in chunk.values():
        total = total + t.order
    return total
