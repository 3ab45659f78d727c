"""Moments of a product's result as sums of its values and of their squares, where the cube can make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import ClassVar

from opc.pipeline import FAST, Context
from opc.tensor.ir import Call, Const, Expr, Function, Op, Piece, Read
from opc.tensor.roles import roles_of
from passes.tensor._algebra import fresh
from passes.tensor._contraction import classify_contraction
from passes.tensor._cube_sums import busiest
from passes.tensor._prologue import works_on_operands


@dataclass(frozen=True)
class SumMoments:
    """Take the mean from the sum s of n values, and the squared deviations from the sum q of their squares.

    Licensed by ``numerics="fast"`` only, and done where moments are statistics of a contraction's result whose tiles
    the machine can hand back to its cube: q is then the diagonal of a product of the tile with itself, s a product
    with ones, and the vector unit is left out. Done only where that makes the pipe with the most work faster.

    Exact arithmetic gives the same values: ``mean = s / n`` and ``m2 = max(q - s * mean, 0)``. The difference cancels
    where the mean is far from zero: the error of m2 is about ``u n (mean² + var)``, against ``u n var`` for Chan's
    merges, so that with a mean of r standard deviations a variance has r² fewer digits; u is that of the sums' type,
    and values take part as they are stored. What cancels to less than nothing is 0, and no variance negative.

    Before:
        func v1 stats {
          arg x: f16[4096,64] input
          arg w: f16[64,32] param
          op y: f16[4096,32] sum accumulate f32 group g0 {
            piece i<4096, k<32 reduce c<64 at i, k = mul(x[i, c], w[c, k])
          }
          op mean: f32[32], m2: f32[32] moments accumulate f32 group g0 {
            piece k<32 reduce i<4096 at k = y[i, k]
          }
          return y, mean, m2
        }
    After:
        func v1 stats {
          arg x: f16[4096,64] input
          arg w: f16[64,32] param
          op y: f16[4096,32] sum accumulate f32 group g0 {
            piece i<4096, k<32 reduce c<64 at i, k = mul(x[i, c], w[c, k])
          }
          op mean_sum: f32[32] sum accumulate f32 group g0 {
            piece k<32 reduce i<4096 at k = y[i, k]
          }
          op m2_sum: f32[32] sum accumulate f32 group g0 {
            piece k<32 reduce i<4096 at k = mul(y[i, k], y[i, k])
          }
          op mean: f32[32] group g1 {
            piece k<32 at k = mul(mean_sum[k], 0.000244140625)
          }
          op m2: f32[32] group g1 {
            piece k<32 at k = max(sub(m2_sum[k], mul(mean_sum[k], mul(mean_sum[k], 0.000244140625))), 0.0)
          }
          return y, mean, m2
        }
    """

    name: ClassVar[str] = "sum-moments"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """The function with its moments exchanged; the same one if none pays."""
        if context.numerics != FAST:
            return ir
        ops: list[Op] = []
        taken = {op.group for op in ir.ops}
        for _, run in groupby(enumerate(ir.ops), key=lambda item: item[1].group or item[0]):
            group = tuple(op for _, op in run)
            ops += _exchanged(group, ir, context, taken)
        return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(ops))


def _exchanged(group: tuple[Op, ...], f: Function, context: Context, taken: set[str | None]) -> Iterator[Op]:
    """The ops of a group, sums in place of its moments, and behind it what they are made into."""
    found = roles_of(group)
    c = classify_contraction(found.root, f) if found is not None else None
    moments = [op for op in group if op.monoid == "moments"]
    fed = c is not None and works_on_operands(c, f.tensors(), context.machine)
    if found is None or c is None or not fed or not moments or group[0].group is None:
        yield from group
        return
    names = set(f.tensors())
    made = {op.name: _Sums(op, names) for op in moments}
    summed = tuple(o for op in group for o in (made[op.name].ops if op.name in made else (op,)))
    tables = (f.tensors(), {**f.tensors(), **{t.name: t for s in made.values() for t in s.tensors}})
    old, new = (
        busiest(ops, found.root, c, table, context.machine)
        for ops, table in zip((group, summed), tables, strict=True)
    )
    if new >= old:
        yield from group
        return
    yield from summed
    name = next(n for i in range(len(taken) + 1) if (n := f"g{i}") not in taken)
    taken.add(name)
    for sums in made.values():
        yield from (replace(op, group=name) for op in sums.finish())


class _Sums:
    """Sums of the terms of moments and of their squares."""

    def __init__(self, op: Op, names: set[str]) -> None:
        self.op, self.piece = op, op.pieces[0]
        self.tensors = [
            replace(out, name=fresh(f"{out.name}_sum", names), dtype=op.accumulate or out.dtype.compute)
            for out in op.outputs
        ]
        names |= {t.name for t in self.tensors}

    @property
    def ops(self) -> tuple[Op, ...]:
        """In the group of the moments."""
        value = self.piece.body
        bodies: tuple[Expr, Expr] = (value, Call("mul", (value, value)))
        return tuple(
            replace(self.op, outputs=(t,), pieces=(replace(self.piece, body=body),), monoid="sum")
            for t, body in zip(self.tensors, bodies, strict=True)
        )

    def finish(self) -> Iterator[Op]:
        """Mean and squared deviations."""
        dims = self.piece.dims
        index = self.piece.index
        s, q = (Read(t.name, index) for t in self.tensors)
        mean = Call("mul", (s, Const(1.0 / prod(d.extent for d in self.piece.reduce))))
        apart = Call("max", (Call("sub", (q, Call("mul", (s, mean)))), Const(0.0)))
        for out, body in zip(self.op.outputs, (mean, apart), strict=True):
            yield Op((out,), (Piece(dims, index, body),), line=self.op.line)
