"""What the ops of a group do on one tile: reads are staged, values computed, and kept or stored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access, Operand
from opc.tensor.ir import Op, Piece, Read, Tensor, reads, walk
from opc.tensor.types import expression_type
from passes.lowering._ahead import Ahead
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._expr import Evaluator, Value, no_load
from passes.lowering._row_plan import RowPlan
from passes.lowering._stage import stage
from passes.lowering._store import by_dims, materialise, store

Tiles = dict[str, Tile]


@dataclass(frozen=True)
class Kept:
    """A group-internal tensor: a value on the current tile, or a scratch array indexed like the tensor.

    ``axes`` gives, per tensor axis, the dim that wrote it (None: index 0).
    """

    value: Value
    axes: tuple[str | None, ...]
    scratch: bool = False


@dataclass
class RowTile:
    """``stored`` names the outputs of a group that leave it."""

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    number: Affine | None = None  # of a term, where it is not its row-major index
    kept: dict[str, Kept] = field(default_factory=dict)
    staged: dict[tuple[object, ...], Access] = field(default_factory=dict)
    given: RowPlan | None = None  # none: the best one
    common: dict[Operand, Value | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chosen: tuple[RowPlan, float] = (self.given, 0.0) if self.given else self.best()
        self.plan = self.chosen[0]
        if self.plan.together is not None:
            self.ops = self.plan.together.ops
        self.ahead = Ahead(self.emit, self.ops, self.tensors, self.stored)

    def best(self) -> tuple[RowPlan, float]:
        """The plan that takes least, and how many cycles where the machine's pipes tell."""
        raise NotImplementedError

    def _move(self, piece: Piece, out: Tensor, tiles: Tiles) -> None:
        """One block, from memory to memory."""
        frame, read = self._frame(piece, tiles), piece.body
        assert isinstance(read, Read)
        source = memory_access(self.tensors[read.tensor], [frame.global_form(f) for f in read.index])
        target = memory_access(out, [frame.global_form(f) for f in piece.index])
        self.emit.emit("copy_in.copy", frame.dims(frame.axes), [target], [source], fill=read.fill)

    def _frame(self, piece: Piece, tiles: Tiles) -> Frame:
        """One axis per dim with a tile; the lane dim last, so that it is contiguous on chip."""
        names = [d.name for d in (*piece.dims, *piece.reduce) if d.name in tiles]
        names.sort(key=lambda n: n in self.plan.lanes)
        axes = tuple(Axis(n, ((n, tiles[n].size),)) for n in names)
        return Frame(axes, {n: t.base for n, t in tiles.items()})

    def _evaluator(self, piece: Piece, tiles: Tiles, staged: dict[Read, Access]) -> Evaluator:
        frame = self._frame(piece, tiles)

        def load(read: Read) -> Value:
            if read.tensor in self.kept:
                return self._internal(ev, read)
            tensor = self.tensors[read.tensor]
            if not self.plan.addressable:
                forms = [frame.global_form(f) for f in read.index]
                self.ahead.fetch(ev, read, piece, forms)
                return ev.dense(memory_access(tensor, forms), frame.used(forms), tensor.dtype, read.fill)
            if read in staged:
                access = self._in_window(staged[read], tiles)
            else:
                access = self._stage(read, frame, tiles)
            return Value(access, frame.used(read.index), tensor.dtype, False)

        ev = Evaluator(self.emit, frame, load, self.common)
        return ev

    def _in_window(self, access: Access, tiles: Tiles) -> Access:
        """A staged window at the current position of its window dims."""
        shift: dict[str, Affine | int] = {}
        for name in self.plan.windows & set(tiles):
            shift[name] = tiles[name].local(name)
        return Access(access.buffer, tuple(f.substitute(shift) for f in access.index), access.slot)

    def _stage(self, read: Read, frame: Frame, tiles: Tiles) -> Access:
        """Stage a read, once per tile if it does not depend on a loop inside the tile."""
        forms = tuple(frame.global_form(f) for f in read.index)
        key = (read.tensor, forms, read.fill)
        if key in self.staged:
            return self.staged[key]
        access = stage(self.emit, read, self.tensors[read.tensor], frame, "vector", self.plan.lanes)
        extents = {d.name: d.extent for op in self.ops for d in (*op.pieces[0].dims, *op.pieces[0].reduce)}
        inner = {n: t for n, t in tiles.items() if n not in self.plan.shared_names}
        if all(t.size == extents[n] for n, t in inner.items()):
            self.staged[key] = access
        return access

    def _internal(self, ev: Evaluator, read: Read) -> Value:
        """A value computed by an earlier op of the group, at this op's index."""
        kept = self.kept[read.tensor]
        if not kept.axes:
            return kept.value
        assert isinstance(kept.value.operand, Access)
        local = {n: (Affine.var(n) if s > 1 else Affine()) for a in ev.frame.axes for n, s in a.dims}
        by_dim: dict[str, Affine | int] = {}
        for form, dim in zip(read.index, kept.axes, strict=True):
            if dim is None:
                continue
            if form.as_var() == dim and dim in self.plan.shared_names:
                by_dim[dim] = local.get(dim, Affine())
            else:  # within the row, where shared dims number rows along the same axis
                row = dim not in self.plan.shared_names
                by_dim[dim] = ev.frame.global_form(form.split(self.plan.shared_names)[row])
        index = tuple(f.substitute(by_dim) for f in kept.value.operand.index)
        access = Access(kept.value.operand.buffer, index)
        axes = ev.frame.used(index)
        if not kept.scratch:
            return Value(access, axes, kept.value.dtype, False)
        assert kept.value.dtype is not None
        return ev.dense(access, axes, kept.value.dtype, None)

    def _body(self, op: Op, tiles: Tiles, staged: dict[Read, Access]) -> Value:
        return self._evaluator(op.pieces[0], tiles, staged).value(op.pieces[0].body)

    def _result(self, op: Op, tiles: Tiles) -> Value:
        """The value of an op that reduces nothing."""
        out, piece = op.outputs[0], op.pieces[0]
        if out.name not in self.stored or self._read_later(op):
            return self._body(op, tiles, {})
        return self._evaluator(piece, tiles, {}).stored(piece.body, out.dtype)

    def _accumulated(self, op: Op) -> DType:
        """The type that terms add up in."""
        found = op.accumulate or expression_type(op.pieces[0].body, self.tensors, op.outputs[0].dtype)
        assert found is not None
        return found

    def _stage_windows(self, piece: Piece, tiles: Tiles) -> dict[Read, Access]:
        """Stage reads that slide over window dims once, for the whole window."""
        windows = [d for d in piece.reduce if d.name in self.plan.windows]
        if not self.plan.addressable or not windows:
            return {}
        whole = {d.name: Tile(Affine(), d.extent, Affine()) for d in windows}
        frame = self._frame(piece, {**tiles, **whole})
        names = {d.name for d in windows}
        others = {d.name for d in piece.reduce} - names
        found: dict[Read, Access] = {}
        for node in walk(piece.body):
            if not isinstance(node, Read) or node.tensor in self.kept:
                continue
            used = {v for f in node.index for v in f.names}
            if used & names and not used & others:
                tensor = self.tensors[node.tensor]
                found[node] = stage(self.emit, node, tensor, frame, "vector", self.plan.lanes)
        return found

    def _scratch(self, op: Op, tiles: Tiles) -> Kept:
        """Memory for an intermediate that is produced chunk by chunk, indexed by the op's dims."""
        piece, out = op.pieces[0], op.outputs[0]
        sizes = {d.name: tiles[d.name].size if d.name in tiles else d.extent for d in piece.dims}
        dims = self._axis_dims(piece)
        names = [d for axis in out.memory_order if (d := dims[axis]) is not None]
        buffer = self.emit.local(
            f"{out.name}_row", out.dtype.compute, [sizes[n] for n in names] or [1], "scratch"
        )
        access = Access(buffer, tuple(Affine.var(n) for n in names) or (Affine(),))
        return Kept(Value(access, (), out.dtype.compute), dims, scratch=True)

    def _axis_dims(self, piece: Piece) -> tuple[str | None, ...]:
        """The dim that writes each axis; where shared dims number rows along it, the one within a row."""
        rests = (f if f.as_var() else f.split(self.plan.shared_names)[1] for f in piece.index)
        return tuple(f.as_var() for f in rests)

    def _read_later(self, op: Op) -> bool:
        """Whether another op of the group reads what this one writes (its own in-place read is of the old value)."""
        names = {t.name for t in op.outputs}
        others = (o for o in self.ops if o is not op)
        return any(
            isinstance(n, Read) and n.tensor in names for o in others for p in o.pieces for n in walk(p.body)
        )

    def _in_memory(self, op: Op) -> bool:
        """Whether later ops of the group find all that ``op`` makes where it was stored: a cache keeps it near."""
        return not self.plan.addressable and all(t.name in self.stored for t in op.outputs)

    def _finish(self, op: Op, tiles: Tiles, values: list[Value], scratch: Kept | None, keep: bool) -> None:
        piece = op.pieces[0]
        frame = self._frame(replace(piece, reduce=()), tiles)
        ev = Evaluator(self.emit, frame, no_load)
        for out, value in zip(op.outputs, values, strict=True):
            if not out.dtype.is_float and value.dtype is not out.dtype:
                value = ev.convert(value, out.dtype)
            if out.name in self.stored:
                store(ev, value, piece, out, "stream" if out.name in self.ahead.streamed else "")
            if keep and self._read_later(op):
                self._keep(ev, piece, out, value, scratch, tiles)

    def _keep(
        self, ev: Evaluator, piece: Piece, out: Tensor, value: Value, scratch: Kept | None, tiles: Tiles
    ) -> None:
        """Hold a value for later ops of the group: on the tile, or through scratch if it comes in chunks."""
        axes = ev.frame.axes
        if scratch is None:
            dense = materialise(ev, value, axes, replace(out, dtype=value.dtype or out.dtype))
            alike = all(d.name in self.plan.shared_names for o in self.ops for d in o.pieces[0].dims)
            dims = () if alike else self._axis_dims(piece)
            self.kept[out.name] = Kept(replace(dense, temporary=False), dims)
            if sum(r.tensor == out.name for o in self.ops for r in reads(o)) > 1:
                self.common[dense.operand] = None
            return
        array = scratch.value
        assert isinstance(array.operand, Access)
        assert array.dtype is not None
        dense = materialise(ev, value, axes, replace(out, dtype=array.dtype))
        assert isinstance(dense.operand, Access)
        place: dict[str, Affine | int] = {
            n: t.local(n) - (t.base if n in self.plan.shared_names else 0) for n, t in tiles.items()
        }
        target = Access(array.operand.buffer, tuple(f.substitute(place) for f in array.operand.index))
        self.emit.emit("copy_out.copy", ev.frame.dims(axes), [target], [by_dims(dense.operand, axes)])
        self.kept[out.name] = scratch
