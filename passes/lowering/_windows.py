"""Lowering of windows that separate: blocks of results, each with what it shares made once, near the core.

A block takes a few results along the slowest axis of the window and, where lanes lie along the fastest, as many of
those as let the partial results stay in the nearest cache; else all of them, one position after the other. Memory is
then read row by row from end to end, a few rows at a time, which is what hardware prefetches; a window at a time
would jump between rows and pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from opc.machine.model import Machine
from opc.tensor.blocks import Block, Restriction
from opc.tensor.ir import Dim, Op, Tensor
from passes.lowering._emit import Emitter
from passes.lowering._rolling import RollingNest
from passes.lowering._row_plan import plan_rows, stride
from passes.lowering._rows import RowNest
from passes.lowering._separate import Separated, separate

_TOGETHER = 2  # rows of results in one block: neighbours share rows of operands, and more streams load faster


@dataclass
class WindowNest:
    """Emits a separated reduction and ``rest``, pointwise ops over its dimensions."""

    emit: Emitter
    split: Separated
    rest: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    blocks: dict[str, int]
    rolling: bool

    @property
    def dims(self) -> list[Dim]:
        """The dimensions with loops outside, as results lie in memory, the one spread over cores first."""
        piece, out = self.split.second.pieces[0], self.split.second.outputs[0]
        outside = [d for d in piece.dims if self.blocks[d.name] < d.extent]
        outside.sort(key=lambda d: -stride(piece.index, out, d.name))
        many = max(outside, key=lambda d: min(d.extent // self.blocks[d.name], 16), default=None)
        return sorted(outside, key=lambda d: d is not many)

    def run(self) -> None:
        """Emit the whole nest."""
        self.emit.line = self.split.second.line
        if self.dims:
            self._loops(self.dims, {}, True)
            return
        with self.emit.loop("one", 1, parallel=True):
            self._block({})

    def _loops(self, dims: list[Dim], blocks: dict[str, Block], parallel: bool) -> None:
        if not dims:
            self._block(blocks)
            return
        d = dims[0]
        for tile in self.emit.tiles(d.name, d.extent, self.blocks[d.name], parallel):
            self._loops(dims[1:], {**blocks, d.name: Block(tile.base, tile.size)}, False)

    def _block(self, blocks: dict[str, Block]) -> None:
        s = self.split
        if self.rolling:
            RollingNest(self.emit, s, self.rest, self.tensors, self.stored).run(blocks)
            return
        inner = blocks.get(s.inner.along)
        if inner is not None:
            blocks = {**blocks, s.position: Block(inner.base * s.inner.step, s.inner.span(inner.size))}
        name = s.first.name
        tensors = {**self.tensors, name: s.first.outputs[0]}
        here = Restriction(tensors, {name})
        first, second, *rest = here.apply((s.first, s.second, *self.rest), blocks)
        out = first.outputs[0]
        tensors[name] = replace(out, name=self.emit.local(name, out.dtype, out.shape, "scratch"))
        first = replace(first, outputs=(tensors[name],))
        RowNest(self.emit, (first,), tensors, frozenset({tensors[name].name})).inside(
            frozenset({s.outer.along})
        )
        RowNest(self.emit, (second, *rest), tensors, self.stored).inside(frozenset())


def window_nest(
    emit: Emitter, ops: tuple[Op, ...], tensors: dict[str, Tensor], stored: frozenset[str]
) -> WindowNest | None:
    """The nest of a group whose first op separates, where its parts fit near the core."""
    split = separate(ops[0], tensors)
    if split is None or emit.machine.role("vector").addressable:
        return None
    if any(op.monoid or op.pieces[0].dims != ops[0].pieces[0].dims for op in ops[1:]):
        return None
    rolling = split.position not in plan_rows((split.first,), tensors, emit.machine).lanes
    blocks = _blocks(split, rolling, emit.machine)
    return WindowNest(emit, split, ops[1:], tensors, stored, blocks, rolling) if blocks else None


def _blocks(s: Separated, rolling: bool, machine: Machine) -> dict[str, int] | None:
    """Results per block along every dimension; None if one row of one result's partial results is too long."""
    piece, out = s.second.pieces[0], s.second.outputs[0]
    room = machine.limits.get("l1_bytes", 0) // 2
    sizes = {d.name: 1 for d in piece.dims}
    sizes[s.outer.along] = min(_TOGETHER, piece.extents[s.outer.along])
    for d in sorted(piece.dims, key=lambda d: stride(piece.index, out, d.name)):
        if d.name == s.outer.along:
            break
        if rolling and d.name == s.inner.along:
            sizes[d.name] = d.extent
            continue
        fits = [n for n in range(1, d.extent + 1) if _bytes(s, {**sizes, d.name: n}) <= room]
        if not fits:
            return None
        sizes[d.name] = _even(d.extent, fits[-1])
        if sizes[d.name] < d.extent:
            break
    if rolling:
        sizes[s.inner.along] = piece.extents[s.inner.along]
    return sizes


def _bytes(s: Separated, sizes: dict[str, int]) -> int:
    """Bytes of the partial results of one block."""
    out = s.first.outputs[0]
    wide = {**sizes, s.position: s.inner.span(sizes[s.inner.along])}
    return out.dtype.bytes * prod(wide[d.name] for d in s.first.pieces[0].dims)


def _even(extent: int, most: int) -> int:
    """The largest block without remainder, unless that is far smaller than the largest."""
    return next((n for n in range(most, most // 2, -1) if extent % n == 0), most)
