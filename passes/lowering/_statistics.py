"""Reductions of a contraction's result over its rows, while tiles of it are on chip.

Each parallel iteration has accumulators of its own, so what is added to what is fixed by the plan and not by the
number of cores. Where several iterations share a column their results go through memory and are merged afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access
from opc.tensor.ir import Call, Const, Dim, Op, Piece, Read, Tensor
from passes.lowering._axes import Axis, Frame
from passes.lowering._emit import Emitter, Tile
from passes.lowering._expr import Evaluator, Value, no_load
from passes.lowering._plan import Shape
from passes.lowering._store import store

Tiles = Mapping[str, Tile]


@dataclass
class Statistics:
    """``ops`` reduce over all dims of ``shape.m``. The parallel loop goes over blocks of ``block`` of ``spread``."""

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    shape: Shape
    spread: str
    block: int
    parts: dict[str, Tensor] = field(default_factory=dict)  # output -> where its parts lie
    sums: dict[str, str] = field(default_factory=dict)  # output -> accumulator
    tiles: Tiles = field(default_factory=dict)  # the tile at hand, and the first of its rows that are
    first: Affine = field(default_factory=Affine)

    def __post_init__(self) -> None:
        rows = next((d for d in self.shape.m if d.name == self.spread), None)
        self.blocks = -(-rows.extent // self.block) if rows is not None else 1
        self.tail = rows.extent % self.block if rows is not None else 0
        for out in (t for op in self.ops for t in op.outputs) if self.blocks > 1 else ():
            shape = (self.blocks, *out.shape)
            dtype = self._type(out)
            self.parts[out.name] = Tensor(self.emit.workspace(f"{out.name}_part", dtype, shape), dtype, shape)

    def _type(self, out: Tensor) -> DType:
        op = next(op for op in self.ops if out in op.outputs)
        return op.accumulate or out.dtype.compute

    # While the tiles are on chip.

    def begin(self, tiles: Tiles, band: Tile | None) -> None:
        """Accumulators for what the loops inside will visit; ``tiles`` are those of the loops outside."""
        whole = {
            d.name: Tile(Affine(), d.extent, Affine())
            for d in (*self.shape.batch, *self.shape.m, *self.shape.n)
        }
        self.fixed = frozenset(tiles)
        self.around = {**whole, **tiles}
        if band is not None:
            self.around[self.spread] = band
        self.number = (
            band.order
            if band is not None
            else self.around[self.spread].order
            if self.blocks > 1
            else Affine()
        )
        self._allocate()

    def _allocate(self) -> None:
        for out in (t for op in self.ops for t in op.outputs):
            sizes = [n for _, n in self._columns()]
            self.sums[out.name] = self.emit.local(f"{out.name}_acc", self._type(out), sizes or [1], "vector")

    def _columns(self) -> list[tuple[str, int]]:
        every = (*self.shape.batch, *self.shape.n)
        return [(d.name, self.around[d.name].size) for d in every if self.around[d.name].size > 1]

    def add(self, ev: Evaluator, op: Op, value: Value) -> None:
        """Merge the terms of some rows of the tile at hand; the axes are rows and columns."""
        dtype = self._type(op.outputs[0])
        value = _spread(ev, ev.convert(value, dtype) if value.dtype is not dtype else value, dtype)
        rows = [d for d in self.shape.m if d.name not in self.fixed]
        fields: dict[str, object] = {"init": sum((self.tiles[d.name].order for d in rows), self.first)}
        if op.monoid == "moments":
            fields["form"] = self._merged(rows)
        if op.monoid in ("sum", "moments"):
            fields["chain"] = prod(d.extent for d in self.shape.m)
        index = []
        for name, _ in self._columns():
            tile = self.tiles[name]
            start = tile.base - self.around[name].base
            index.append(start + (Affine.var("n_") if tile.size > 1 else Affine()))
        targets = [Access(self.sums[t.name], tuple(index) or (Affine(),)) for t in op.outputs]
        dims = ev.frame.axis_dims(ev.frame.axes)
        self.emit.emit(f"vector.reduce_{op.monoid}", dims, targets, [value.operand], **fields)

    def _merged(self, rows: list[Dim]) -> Affine:
        """How many terms earlier tiles of this iteration have merged."""
        total = self.first
        done = prod(self.around[d.name].size for d in self.shape.m if d.name in self.fixed)
        for i, d in enumerate(rows):
            later = prod(self.around[o.name].size for o in rows[i + 1 :])
            total = total + (self.tiles[d.name].base - self.around[d.name].base) * (done * later)
            done *= self.tiles[d.name].size
        return total

    def end(self) -> None:
        """Store what the loops inside have accumulated."""
        axes = tuple(Axis(name, ((name, size),)) for name, size in self._columns())
        frame = Frame(axes, {name: t.base for name, t in self.around.items()})
        ev = Evaluator(self.emit, frame, no_load)
        for op in self.ops:
            self.emit.line = op.line
            for out in op.outputs:
                value = Value(Evaluator.at(self.sums[out.name], axes), axes, self._type(out), True)
                self._store(ev, op, out, value)

    def _store(self, ev: Evaluator, op: Op, out: Tensor, value: Value) -> None:
        """Store what an iteration found: the result, or its part of it."""
        piece = op.pieces[0]
        if self.blocks > 1:
            store(ev, value, replace(piece, index=(self.number, *piece.index)), self.parts[out.name])
        elif out.name in self.stored:
            store(ev, value, piece, out)

    # After the phase.

    def merge(self) -> None:
        """Merge the parts of all iterations, in a phase of its own."""
        from passes.lowering._rows import RowNest  # whose own sums are made as these are

        tensors = {**self.tensors, **{t.name: t for t in self.parts.values()}}
        for ops in self._alike() if self.blocks > 1 else ():
            merged = tuple(m for op in ops for m in self._merging(op))
            tensors.update((t.name, t) for m in merged for t in m.outputs)
            RowNest(self.emit, merged, tensors, self.stored).run()

    def _alike(self) -> Iterator[tuple[Op, ...]]:
        """Sums over parts of one shape are one nest."""
        sums = tuple(op for op in self.ops if op.monoid == "sum")
        together = len({op.outputs[0].shape for op in sums}) == 1
        yield from (sums,) if together else ((op,) for op in sums)
        yield from ((op,) for op in self.ops if op not in sums)

    def _merging(self, op: Op) -> Iterator[Op]:
        dims = tuple(Dim(f"k{axis}", extent) for axis, extent in enumerate(op.outputs[0].shape))
        index = tuple(Affine.var(d.name) for d in dims)
        whole = self.blocks - bool(self.tail and op.monoid == "moments")
        line, dtype = op.line, self._type(op.outputs[0])

        def over(monoid: str, parts: Tensor, *outputs: Tensor) -> Op:
            body = Read(parts.name, (Affine.var("b"), *index))
            return Op(
                outputs, (Piece(dims, index, body, (Dim("b", whole),)),), monoid, accumulate=dtype, line=line
            )

        def made(name: str) -> Tensor:
            return Tensor(f"{op.name}.{name}", dtype, op.outputs[0].shape)

        def point(out: Tensor, body: Call) -> Op:
            return Op((out,), (Piece(dims, index, body),), line=line)

        if op.monoid != "moments":
            yield over(op.monoid or "", self.parts[op.name], op.outputs[0])
            return
        # Parts of equal counts n: the means' moments, and n times their deviations beside the parts' own.
        mean, m2 = op.outputs
        count = self.block * prod(d.extent for d in self.shape.m if d.name != self.spread)
        middle, apart, within = made("middle") if self.tail else mean, made("apart"), made("within")
        total = made("total") if self.tail else m2
        yield over("moments", self.parts[mean.name], middle, apart)
        yield over("sum", self.parts[m2.name], within)
        yield point(
            total, _call("add", _at(within, index), _call("mul", _at(apart, index), Const(float(count))))
        )
        if not self.tail:
            return
        # The last part is smaller: Chan's rule for two counts.
        first, last = count * whole, count // self.block * self.tail
        share = last / (first + last)
        delta, end = made("delta"), (Affine((), whole), *index)
        yield point(delta, _call("sub", Read(self.parts[mean.name].name, end), _at(middle, index)))
        yield point(mean, _call("add", _at(middle, index), _call("mul", _at(delta, index), Const(share))))
        square = _call("mul", _call("mul", _at(delta, index), Const(first * share)), _at(delta, index))
        rest = _call("add", _at(total, index), Read(self.parts[m2.name].name, end))
        yield point(m2, _call("add", rest, square))


def _at(tensor: Tensor, index: tuple[Affine, ...]) -> Read:
    return Read(tensor.name, index)


def _call(fn: str, *args: object) -> Call:
    return Call(fn, args)  # type: ignore[arg-type]


def _spread(ev: Evaluator, value: Value, dtype: DType) -> Value:
    """The value over all rows and columns: a term that does not vary still counts each time."""
    wide = tuple(a for a in ev.frame.axes if a.size > 1)
    if isinstance(value.operand, Access) and tuple(a for a in value.axes if a.size > 1) == wide:
        return value
    target = ev.at(ev.buffer(wide, dtype), wide)
    ev.emit.emit("vector.copy", ev.frame.axis_dims(wide), [target], [value.operand])
    return Value(target, wide, dtype, True)
