"""Accumulators of a reduction: how partial results are held while the reduced dims are walked.

``Restarting`` has one accumulator that the first block overwrites. ``Lanewise`` serves register files:
every lane of a reduced dim keeps its own partial result, so the loop adds whole vectors, and the lanes are
merged once, after the loop. ``Columns`` are those of many columns at once, in scratch memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access, Imm, Operand
from opc.tensor.ir import Dim, DimValue, Op
from opc.tensor.types import literal
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile
from passes.lowering._expr import Evaluator, Value, no_load
from passes.lowering._guards import row_major

Tiles = dict[str, Tile]
BLOCKWISE = {"sum": "add", "max": "max", "min": "min"}  # opcodes that join two partial results
_IDENTITY = {"sum": 0.0, "moments": 0.0, "max": -inf, "min": inf}


@dataclass
class Restarting:
    """One accumulator per output on the kept axes; ``number`` is a term's index if not row-major."""

    emit: Emitter
    op: Op
    frame: Frame
    dtype: DType
    number: Affine | None
    values: list[Value] = field(default_factory=list)

    def add(self, ev: Evaluator, value: Value, inner: Tiles) -> None:
        """Merge the terms of one block."""
        piece, op = self.op.pieces[0], self.op
        winner = op.monoid in ("argmax", "argmin")
        if not self.values:
            kinds = {"moments": [self.dtype, self.dtype]}.get(op.monoid or "", [self.dtype])
            kinds += [DType.I32] if winner else []
            self.values = [_accumulator(ev, self.frame.axes, t) for t in kinds]
        value = over_reduced(ev, value, inner)
        sources = [value.operand]
        fields: dict[str, object] = {"init": _order(inner)}
        if winner:
            sources.append(ev.value(DimValue(self.number or row_major(piece.reduce))).operand)
        elif op.monoid == "moments":
            fields["form"] = _count(_walked(piece.reduce, inner), inner)
        if op.monoid in ("sum", "moments"):
            fields["chain"] = _terms(piece.reduce)
        targets = [_access(v) for v in self.values]
        dims = ev.frame.axis_dims(ev.frame.axes)
        self.emit.emit(f"vector.reduce_{op.monoid}", dims, targets, sources, **fields)

    def results(self) -> list[Value]:
        """One value per output."""
        return self.values[-1:] if self.op.monoid in ("argmax", "argmin") else self.values


@dataclass
class Blockwise:
    """Where vectors lie in memory: a whole block of partial results, to which blocks are added element by element.

    ``frame`` has the kept axes, ``block`` those of a whole block.
    """

    emit: Emitter
    op: Op
    frame: Frame
    block: Frame
    dtype: DType

    def __post_init__(self) -> None:
        ev = Evaluator(self.emit, self.block, no_load)
        self.sums = _accumulator(ev, self.block.axes, self.dtype)
        identity = Imm(literal(_IDENTITY[self.op.monoid or ""], self.dtype))
        dims = self.block.axis_dims(self.block.axes)
        self.emit.emit("vector.copy", dims, [_access(self.sums)], [identity])

    def add(self, ev: Evaluator, value: Value, inner: Tiles) -> None:
        """Join the terms of one block, which may be smaller than others."""
        value = over_reduced(ev, value, inner)
        sums = _access(self.sums)
        opcode = f"vector.{BLOCKWISE[self.op.monoid or '']}"
        self.emit.emit(opcode, ev.frame.axis_dims(ev.frame.axes), [sums], [sums, value.operand])

    def results(self) -> list[Value]:
        """Reduce what the blocks became."""
        target = _accumulator(Evaluator(self.emit, self.frame, no_load), self.frame.axes, self.dtype)
        fields: dict[str, object] = {"init": Affine()}
        if self.op.monoid == "sum":
            fields["chain"] = _terms(self.op.pieces[0].reduce)
        dims = self.block.axis_dims(self.block.axes)
        opcode = f"vector.reduce_{self.op.monoid}"
        self.emit.emit(opcode, dims, [_access(target)], [_access(self.sums)], **fields)
        return [target]


@dataclass
class Lanewise:
    """Partial results per lane, made before the loops over the reduced dims.

    Blocks of different width (the last may be narrower) share the accumulators of a sum; moments have
    some per width, because lanes that merged different counts weigh differently.
    """

    emit: Emitter
    op: Op
    frame: Frame
    dtype: DType
    lanes: tuple[Dim, ...]  # reduced dims along the lanes
    sizes: dict[str, int]  # block per lane dim
    parts: dict[int, list[Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        widths = {prod(self.sizes[d.name] for d in self.lanes)}
        if self.op.monoid == "moments" and self.lanes:
            tail = self.lanes[0].extent % self.sizes[self.lanes[0].name]
            widths |= {tail} if tail else set()
        ev = Evaluator(self.emit, self.frame, no_load)
        for width in sorted(widths, reverse=True):
            own = tuple(Axis(d.name, ((d.name, min(width, self.sizes[d.name])),)) for d in self.lanes)
            axes = tuple(a for a in (*self.frame.axes, *own) if a.size > 1 or a in self.frame.axes)
            self.parts[width] = [
                self._start(ev, axes) for _ in range(2 if self.op.monoid == "moments" else 1)
            ]

    def _start(self, ev: Evaluator, axes: tuple[Axis, ...]) -> Value:
        value = _accumulator(ev, axes, self.dtype)
        identity = Imm(literal(_IDENTITY[self.op.monoid or ""], self.dtype))
        ev.emit.emit("vector.copy", ev.frame.axis_dims(axes), [_access(value)], [identity])
        return value

    def add(self, ev: Evaluator, value: Value, inner: Tiles) -> None:
        """Merge the terms of one block, lane by lane."""
        value = over_reduced(ev, value, inner)
        width = prod(inner[d.name].size for d in self.lanes)
        values = self.parts.get(width) or next(iter(self.parts.values()))
        fields: dict[str, object] = {}
        if self.op.monoid == "moments":
            fields["form"] = self._merged(inner)
        if self.op.monoid in ("sum", "moments"):
            fields["chain"] = _terms(self.op.pieces[0].reduce)
        targets = [_access(v) for v in values]
        dims = ev.frame.axis_dims(ev.frame.axes)
        self.emit.emit(f"vector.reduce_{self.op.monoid}", dims, targets, [value.operand], **fields)

    def _merged(self, inner: Tiles) -> Affine:
        """How many terms every lane of this block's width holds."""
        dims, tiles = [], {}
        names = {d.name for d in self.lanes}
        for d in _walked(self.op.pieces[0].reduce, inner):
            tile = inner[d.name]
            if d.name in names:
                full = tile.size == self.sizes[d.name]
                dims.append(Dim(d.name, d.extent // tile.size if full else 1))
                tiles[d.name] = Tile(tile.order if full else Affine(), 1, tile.order)
            else:
                dims.append(d)
                tiles[d.name] = tile
        return _count(tuple(dims), tiles)

    def results(self) -> list[Value]:
        """Merge the lanes; one value per output."""
        if not self.lanes:
            return next(iter(self.parts.values()))
        if self.op.monoid != "moments":
            return [self._across(self.op.monoid or "", values) for values in self.parts.values()]
        merged = [(width, *self._moments(width, values)) for width, values in self.parts.items()]
        if len(merged) == 1:
            return list(merged[0][1:])
        (w1, mean, m2), (w2, mean_2, m2_2) = merged
        self._join(self._terms_of(w1) * w1, (mean, m2), self._terms_of(w2) * w2, (mean_2, m2_2))
        return [mean, m2]

    def _terms_of(self, width: int) -> int:
        """Terms that one lane of that width has merged."""
        full = prod(self.sizes[d.name] for d in self.lanes)
        others = _terms(self.op.pieces[0].reduce) // _terms(self.lanes)
        return others * (prod(d.extent // self.sizes[d.name] for d in self.lanes) if width == full else 1)

    def _across(self, monoid: str, values: list[Value]) -> Value:
        ev = Evaluator(self.emit, self.frame, no_load)
        value = values[0]
        target = _accumulator(ev, self.frame.axes, self.dtype)
        fields: dict[str, object] = {"init": Affine()}
        if monoid == "sum":
            fields["chain"] = _terms(self.op.pieces[0].reduce)
        dims = ev.frame.axis_dims(value.axes)
        ev.emit.emit(f"vector.reduce_{monoid}", dims, [_access(target)], [value.operand], **fields)
        return target

    def _moments(self, width: int, values: list[Value]) -> tuple[Value, Value]:
        """Lanes of equal counts n: the means' mean, and n times their squared deviations beside the lanes' own."""
        ev = Evaluator(self.emit, self.frame, no_load)
        mean, apart = (_accumulator(ev, self.frame.axes, self.dtype) for _ in range(2))
        chain = _terms(self.op.pieces[0].reduce)
        dims = ev.frame.axis_dims(values[0].axes)
        targets = [_access(mean), _access(apart)]
        ev.emit.emit(
            "vector.reduce_moments",
            dims,
            targets,
            [values[0].operand],
            init=Affine(),
            form=Affine(),
            chain=chain,
        )
        within = self._across("sum", values[1:])
        self._apply("mul", apart, apart, Imm(float(self._terms_of(width))))
        self._apply("add", within, within, apart.operand)
        return mean, within

    def _join(self, n1: int, first: tuple[Value, Value], n2: int, second: tuple[Value, Value]) -> None:
        """Chan's rule for two parts whose sizes are known; the result replaces the first."""
        (mean, m2), (delta, m2_2) = first, second
        ev = Evaluator(self.emit, self.frame, no_load)
        moved = _accumulator(ev, self.frame.axes, self.dtype)
        self._apply("sub", delta, delta, mean.operand)
        self._apply("mul", moved, delta, Imm(n2 / (n1 + n2)))
        self._apply("add", mean, mean, moved.operand)
        self._apply("mul", moved, moved, Imm(float(n1)))
        self._apply("mul", moved, moved, delta.operand)
        self._apply("add", m2, m2, m2_2.operand)
        self._apply("add", m2, m2, moved.operand)

    def _apply(self, fn: str, target: Value, left: Value, right: Operand) -> None:
        dims = self.frame.axis_dims(self.frame.axes)
        self.emit.emit(f"vector.{fn}", dims, [_access(target)], [left.operand, right])


@dataclass
class Columns:
    """Results for whole rows of columns (``beside``) in scratch memory, to which row after row is added."""

    emit: Emitter
    op: Op
    beside: tuple[Dim, ...]
    dtype: DType

    def __post_init__(self) -> None:
        shape = [d.extent for d in self.beside]
        self.buffer = self.emit.local(f"{self.op.outputs[0].name}_row", self.dtype, shape, "scratch")

    def start(self, frame: Frame) -> None:
        """A tile of columns without terms."""
        value = self._tile(frame)
        identity = Imm(literal(_IDENTITY[self.op.monoid or ""], self.dtype))
        self.emit.emit("vector.copy", frame.axis_dims(frame.axes), [_access(value)], [identity])
        self._keep(frame, value)

    def add(self, ev: Evaluator, value: Value, inner: Tiles) -> None:
        """Merge one row's terms of a tile of columns."""
        frame = Frame(tuple(a for a in ev.frame.axes if a.name not in inner), ev.frame.base)
        term, sums = over_reduced(ev, value, inner), self.result(frame)
        fields = {"chain": _terms(self.op.pieces[0].reduce)} if self.op.monoid == "sum" else {}
        dims = ev.frame.axis_dims(ev.frame.axes)
        self.emit.emit(f"vector.reduce_{self.op.monoid}", dims, [_access(sums)], [term.operand], **fields)
        self._keep(frame, sums)

    def result(self, frame: Frame) -> Value:
        """What a tile of columns has come to."""
        value = self._tile(frame)
        self.emit.emit("copy_in.copy", frame.dims(frame.axes), [_access(value)], [self._place(frame)])
        return value

    def _tile(self, frame: Frame) -> Value:
        return _accumulator(Evaluator(self.emit, frame, no_load), frame.axes, self.dtype)

    def _keep(self, frame: Frame, value: Value) -> None:
        self.emit.emit("copy_out.copy", frame.dims(frame.axes), [self._place(frame)], [_access(value)])

    def _place(self, frame: Frame) -> Access:
        return Access(self.buffer, tuple(frame.global_form(Affine.var(d.name)) for d in self.beside))


def over_reduced(ev: Evaluator, value: Value, inner: Tiles) -> Value:
    """The value over every reduced axis of the tile: a term that does not vary still counts each time."""
    wide = tuple(a for a in ev.frame.axes if a in value.axes or (a.name in inner and a.size > 1))
    if isinstance(value.operand, Access) and len(wide) == len(value.axes):
        return value
    dtype = value.dtype or DType.F32
    target = ev.at(ev.buffer(wide, dtype), wide)
    ev.emit.emit("vector.copy", ev.frame.axis_dims(wide), [target], [value.operand])
    return Value(target, wide, dtype, True)


def _accumulator(ev: Evaluator, axes: tuple[Axis, ...], dtype: DType) -> Value:
    return Value(ev.at(ev.buffer(axes, dtype, "acc"), axes), axes, dtype, True)


def _access(value: Value) -> Access:
    assert isinstance(value.operand, Access)
    return value.operand


def _terms(dims: tuple[Dim, ...]) -> int:
    return prod(d.extent for d in dims)


def _order(tiles: Tiles) -> Affine:
    total = Affine()
    for t in tiles.values():
        total = total + t.order
    return total


def _walked(dims: tuple[Dim, ...], tiles: Tiles) -> tuple[Dim, ...]:
    """``dims`` as their loops nest, which need not be the order of the op."""
    order = [*tiles]
    return tuple(sorted(dims, key=lambda d: order.index(d.name)))


def _count(dims: tuple[Dim, ...], tiles: Tiles) -> Affine:
    """How many terms earlier blocks have already merged, for dims as their loops nest."""
    total = Affine()
    for i, d in enumerate(dims):
        step = 1
        for other in dims[:i]:
            step *= tiles[other.name].size
        for other in dims[i + 1 :]:
            step *= other.extent
        total = total + tiles[d.name].base * step
    return total
