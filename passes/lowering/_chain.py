"""Lowering of a chain: pointwise ops, a contraction, pointwise ops, with what they hand on kept near.

The rows of the contraction are walked in blocks. Within one block every stage runs as the nest that it would be by
itself, and the tensors between the stages are as large as the block. Where blocks would cost more than they save (few
rows, or weights that each block would fetch again) the stages follow each other over all rows instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod

from opc.affine import Affine
from opc.tensor.blocks import Block, Restriction, shared_dims
from opc.tensor.ir import Dim, Function, Op, Tensor, reads
from passes.lowering._chain_plan import ChainSizes, chain_plans
from passes.lowering._emit import Emitter, Tile
from passes.lowering._knobs import Knobs
from passes.lowering._matmul_chained import ChainedNest
from passes.lowering._pieces import PieceNest
from passes.tensor._contraction import Contraction, classify_contraction

Stage = tuple[Op, ...]


@dataclass
class ChainNest:
    """Emits one chain group. ``stored`` names the group's outputs that leave it."""

    emit: Emitter
    ops: tuple[Op, ...]
    function: Function
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    knobs: Knobs

    def __post_init__(self) -> None:
        runs = groupby(self.ops, key=lambda op: op.monoid is not None)
        self.stages: list[Stage] = [tuple(run) for _, run in runs]
        self.between = frozenset(self._between())
        self.dims = shared_dims(self.ops)
        self.plans = chain_plans(self._sizes(), self.emit.machine)
        wanted = self.knobs.block
        self.plan = next((p for p in self.plans if p.rows == wanted), self.plans[0])

    def alternatives(self) -> list[Knobs]:
        """Other block sizes worth timing, best estimate first."""
        return [Knobs(block=p.rows) for p in self.plans[1:]]

    def run(self) -> None:
        """Emit the chain."""
        if not self.plan.blocks:
            self._in_turn()
            return
        sizes = dict(zip((d.name for d in self.dims), self.plan.blocks, strict=True))
        self._loops(self.dims, sizes, {}, True)

    def _between(self) -> Iterator[str]:
        """Tensors that one stage makes and another reads."""
        for stage in self.stages:
            mine = {t.name for op in stage for t in op.outputs}
            others = (op for other in self.stages if other is not stage for op in other)
            yield from mine & {r.tensor for op in others for r in reads(op)}

    def _contraction(self, op: Op) -> Contraction:
        found = classify_contraction(op, self.function)
        assert found is not None
        return found

    def _sizes(self) -> ChainSizes:
        op = next(op for op in self.ops if op.monoid is not None)
        c, dtype = self._contraction(op), op.outputs[0].dtype
        rows, batch, channels, columns = (prod(d.extent for d in x) for x in (c.m, c.batch, c.k, c.n))
        return ChainSizes(tuple(d.extent for d in self.dims), rows, batch, channels, columns, dtype)

    def _in_turn(self) -> None:
        """One stage after the other, each spread over cores; what they hand on lies in memory."""
        for name in sorted(self.between):
            self.emit.memory(self.tensors[name], "workspace")
        for stage in self.stages:
            if stage[0].monoid is None:
                PieceNest(self.emit, stage, self.tensors, self.between | self.stored).run()
            else:
                self._multiply(stage[0], self.tensors).run()

    def _loops(
        self, dims: list[Dim], sizes: dict[str, int], blocks: dict[str, Block], parallel: bool
    ) -> None:
        if not dims:
            self._block(blocks)
            return
        d, size = dims[0], sizes[dims[0].name]
        # The first dimension with several blocks is spread over cores; what is whole needs no loop.
        spread = parallel and (size < d.extent or len(dims) == 1)
        for tile in self._steps(d, size, spread):
            inner = {**blocks, d.name: Block(tile.base, tile.size)}
            self._loops(dims[1:], sizes, inner, parallel and not spread)

    def _steps(self, d: Dim, size: int, parallel: bool) -> Iterator[Tile]:
        """Blocks of a dimension; the last, with pieces that end earlier than others, stands by itself."""
        least = min(p.extents.get(d.name, d.extent) for op in self.ops for p in op.pieces)
        full = least // size
        if full:
            with self.emit.loop(f"{d.name}_b", full, parallel) as var:
                yield Tile(var * size, size, var)
        if full * size < d.extent:
            with self.emit.loop(f"{d.name}_b", 1, parallel):
                yield Tile(Affine((), full * size), d.extent - full * size, Affine((), full))

    def _block(self, blocks: dict[str, Block]) -> None:
        """Every stage on one block of rows."""
        restriction = Restriction(dict(self.tensors), self.between)
        ops = {op.name: op for op in restriction.apply(self.ops, blocks)}
        tensors = restriction.tensors
        for name in sorted(self.between):
            t = tensors[name]
            tensors[name] = replace(t, name=self.emit.local(name, t.dtype, t.shape, "memory"), order=None)
        for stage in self.stages:
            mine = tuple(ops[op.name] for op in stage)
            if mine[0].monoid is None:
                nest = PieceNest(self.emit, mine, tensors, self.between | self.stored)
                nest.inside(nest.shared, {})
            else:
                self._multiply(mine[0], tensors).inside()

    def _multiply(self, op: Op, tensors: dict[str, Tensor]) -> ChainedNest:
        """The contraction, all rows of a block under one panel of weights."""
        made = replace(op, outputs=(tensors[op.name],))
        c = self._contraction(op)
        return ChainedNest(self.emit, (made,), c, tensors, frozenset({tensors[op.name].name}), Knobs())
