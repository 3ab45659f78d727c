"""Merge ops that compute the same values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from opc.pipeline import Context
from opc.tensor.ir import Function, Op, reads
from passes.tensor._algebra import canonical, rename_tensors


@dataclass(frozen=True)
class Cse:
    """Common subexpression elimination: an op equal to an earlier one, up to the names of its dimensions
    and outputs, is dropped and its readers read the earlier one. Equal expressions inside ops are left to
    the back ends, which see registers.

    A result keeps its name: if the later op is a result, the earlier one takes its name, and if both
    are, both stay.

    Before:
        func v1 twice {
          arg x: f32[8] input
          op a: f32[8] line 1 {
            piece i<8 at i = exp(x[i])
          }
          op b: f32[8] line 2 {
            piece j<8 at j = exp(x[j])
          }
          op y: f32[8] line 3 {
            piece i<8 at i = mul(a[i], b[i])
          }
          return y
        }
    After:
        func v1 twice {
          arg x: f32[8] input
          op a: f32[8] line 1 {
            piece i<8 at i = exp(x[i])
          }
          op y: f32[8] line 3 {
            piece i<8 at i = mul(a[i], a[i])
          }
          return y
        }
    """

    name: ClassVar[str] = "cse"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        return shared(ir)


def shared(ir: Function) -> Function:
    """The function without ops that compute what another one does."""
    updated = ir.updated()
    kept: list[Op] = []
    first: dict[Op, Op] = {}  # canonical form -> the op that stays
    names: dict[str, str] = {}  # output of a dropped op -> the equal output
    final: dict[str, str] = {}  # output that stays -> the result whose name it takes
    for original in ir.ops:
        op = rename_tensors(original, names)
        if any(r.tensor in updated for r in reads(op)) or op.name in updated:
            kept.append(op)
            continue
        twin = first.setdefault(canonical(op), op)
        pairs = [(t.name, u.name) for t, u in zip(op.outputs, twin.outputs, strict=True)]
        is_result = [t in ir.results for t, _ in pairs]
        has_result_name = [u in ir.results or u in final for _, u in pairs]
        if twin is op or any(a and b for a, b in zip(is_result, has_result_name, strict=True)):
            kept.append(op)
            continue
        names.update(pairs)
        final.update((u, t) for (t, u), wanted in zip(pairs, is_result, strict=True) if wanted)
    if len(kept) == len(ir.ops):
        return ir
    return ir.with_ops(tuple(_rename_all(op, final) for op in kept))


def _rename_all(op: Op, names: dict[str, str]) -> Op:
    outputs = tuple(replace(t, name=names.get(t.name, t.name)) for t in op.outputs)
    return replace(rename_tensors(op, names), outputs=outputs)
