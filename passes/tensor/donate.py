"""Let a tensor lie where an argument lay whose memory the caller gave away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from opc.pipeline import Context
from opc.tensor.ir import Expr, Function, Op, Read, Tensor, reads, rewrite


@dataclass(frozen=True)
class Donate:
    """An op that stores a tensor like a donated argument updates that argument instead, if nobody reads the argument
    any more and the op itself reads it at no other element than the one it writes.

    What a forward kernel saved for one backward kernel is such an argument: the gradient of a convolution's result
    takes the place of that result, as it does where memory is freed after its last use.

    Before:
        func v1 f {
          arg a: f32[8,16] donated
          arg w: f32[16,4] input
          op g: f32[8,16] group g0 {
            piece n<8, k<16 at n, k = mul(a[n, k], 2.0)
          }
          op y: f32[8,4] sum accumulate f32 group g1 {
            piece n<8, m<4 reduce k<16 at n, m = mul(g[n, k], w[k, m])
          }
          return y
        }

    After:
        func v1 f {
          arg a: f32[8,16] donated
          arg w: f32[16,4] input
          op a: f32[8,16] group g0 {
            piece n<8, k<16 at n, k = mul(a[n, k], 2.0)
          }
          op y: f32[8,4] sum accumulate f32 group g1 {
            piece n<8, m<4 reduce k<16 at n, m = mul(a[n, k], w[k, m])
          }
          return y
        }
    """

    name: ClassVar[str] = "donate"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """The function in which every donated argument that can be is written over once."""
        for arg in ir.args:
            if arg.kind != "donated":
                continue
            heir = next((i for i in range(len(ir.ops)) if _inherits(ir, i, arg.tensor)), None)
            if heir is not None:
                ir = _moved(ir, heir, arg.tensor)
        return ir


def _inherits(ir: Function, place: int, given: Tensor) -> bool:
    """Whether the op at ``place`` may write its output over ``given``."""
    op = ir.ops[place]
    out = op.outputs[0]
    if len(op.outputs) > 1 or op.prepare or out.name in ir.results or not _alike(out, given):
        return False
    # Ops of a group run interleaved, and what only they read is not stored.
    inside = [o for o in ir.ops if o is not op and op.group is not None and o.group == op.group]
    late = [*inside, *ir.ops[place + 1 :]]
    if any(r.tensor == given.name for o in late for r in reads(o)):
        return False
    if not any(r.tensor == out.name for o in late if o not in inside for r in reads(o)):
        return False
    return not _reads_another(op, given)


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.shape, a.memory_order) == (b.dtype, b.shape, b.memory_order)


def _reads_another(op: Op, given: Tensor) -> bool:
    """Whether the op reads ``given``, and not only the element that it writes."""
    if not any(r.tensor == given.name for r in reads(op)):
        return False
    if op.monoid is not None or len(op.pieces) > 1:
        return True
    return any(r.index != op.pieces[0].index for r in reads(op) if r.tensor == given.name)


def _moved(ir: Function, place: int, given: Tensor) -> Function:
    """The function where the output of the op at ``place`` is called as the argument."""
    old = ir.ops[place].outputs[0].name

    def renamed(node: Expr) -> Expr:
        return replace(node, tensor=given.name) if isinstance(node, Read) and node.tensor == old else node

    ops = [
        replace(op, pieces=tuple(replace(p, body=rewrite(p.body, renamed)) for p in op.pieces))
        for op in ir.ops
    ]
    ops[place] = replace(ops[place], outputs=(replace(ops[place].outputs[0], name=given.name),))
    return ir.with_ops(tuple(ops))
