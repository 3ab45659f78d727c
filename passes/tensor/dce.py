"""Remove ops that no result depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opc.pipeline import Context
from opc.tensor.ir import Function, Op, reads


@dataclass(frozen=True)
class Dce:
    """Dead code elimination: keep an op if one of its outputs is a result or is read by an op that is kept.
    Arguments stay, used or not: they are the kernel's signature.

    Before:
        func v1 unused {
          arg x: f32[8] input
          op a: f32[8] line 1 {
            piece i<8 at i = exp(x[i])
          }
          op b: f32[8] line 2 {
            piece i<8 at i = log(a[i])
          }
          op y: f32[8] line 3 {
            piece i<8 at i = neg(a[i])
          }
          return y
        }
    After:
        func v1 unused {
          arg x: f32[8] input
          op a: f32[8] line 1 {
            piece i<8 at i = exp(x[i])
          }
          op y: f32[8] line 3 {
            piece i<8 at i = neg(a[i])
          }
          return y
        }
    """

    name: ClassVar[str] = "dce"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        return live(ir)


def live(ir: Function) -> Function:
    """The function without ops that no result depends on."""
    # An op that writes an inout argument's storage is an effect, whoever reads it.
    needed = set(ir.results) | {a.tensor.name for a in ir.args if a.kind == "inout"}
    kept: list[Op] = []
    for op in reversed(ir.ops):
        if any(t.name in needed for t in op.outputs):
            kept.append(op)
            needed.update(r.tensor for r in reads(op))
    return ir if len(kept) == len(ir.ops) else ir.with_ops(tuple(reversed(kept)))
