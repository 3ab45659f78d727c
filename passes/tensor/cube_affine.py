"""Per-channel factors of a contraction's operand as sums of two that the cube multiplies, where it can apply them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar

from opc.pipeline import FAST, Context
from opc.tensor.ir import Function, Op
from opc.tensor.roles import roles_of
from passes.tensor._contraction import classify_contraction
from passes.tensor._cube_affine import halved, linear_of, replaced
from passes.tensor._cube_sums import busiest
from passes.tensor._prologue import works_on_operands


@dataclass(frozen=True)
class CubeAffine:
    """Write ``x * A + B``, done to an operand while it is loaded, as ``B + x * A' + x * A''``, the second factor what
    rounding to the type of x left of A: the cube then takes both as matrices with them on the diagonal.

    Licensed by ``numerics="fast"`` only, and done where a vector unit makes the operand of a contraction whose machine
    can hand what the cube made back to it, if that makes the pipe with the most work faster. Linear combinations of
    several values are taken like one.

    Exact arithmetic gives the same values. A' and A'' in f16 have 22 digits together where A is at least 1/8, and an
    error of 2^-25 below; the bound, which knows one rounding at a time, grants ``2 u |x A|`` with the u of f16. A may
    not be beyond the range of f16. An infinity or NaN spoils the channels that share a block of the cube with it.

    Before:
        func v1 scaled {
          arg x: f16[8192,256] input
          arg s: f32[256] input
          arg t: f32[256] input
          arg w: f16[256,64] param
          op a: f16[8192,256] group g0 {
            piece i<8192, c<256 at i, c = f16(max(add(mul(x[i, c], s[c]), t[c]), 0.0))
          }
          op y: f16[8192,64] sum accumulate f32 group g0 {
            piece i<8192, k<64 reduce c<256 at i, k = mul(a[i, c], w[c, k])
          }
          return y
        }
    After:
        func v1 scaled {
          arg x: f16[8192,256] input
          arg s: f32[256] input
          arg t: f32[256] input
          arg w: f16[256,64] param
          op a: f16[8192,256] group g0 {
            piece i<8192, c<256 at i, c = f16(max(add(add(t[c], mul(x[i, c], f16(s[c]))), mul(x[i, c], f16(sub(s[c], f16(s[c]))))), 0.0))
          }
          op y: f16[8192,64] sum accumulate f32 group g0 {
            piece i<8192, k<64 reduce c<256 at i, k = mul(a[i, c], w[c, k])
          }
          return y
        }
    """  # noqa: E501

    name: ClassVar[str] = "cube-affine"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """The function with such factors split; the same one if none pays."""
        if context.numerics != FAST:
            return ir
        ops: list[Op] = []
        for _, run in groupby(enumerate(ir.ops), key=lambda item: item[1].group or item[0]):
            ops += _split(tuple(op for _, op in run), ir, context)
        return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(ops))


def _split(group: tuple[Op, ...], f: Function, context: Context) -> tuple[Op, ...]:
    """A group's ops, the one that makes its operand with split factors if that pays."""
    found = roles_of(group)
    c = classify_contraction(found.root, f) if found is not None else None
    if found is None or c is None or len(found.before) != 1:
        return group
    (op,), tensors = found.before, f.tensors()
    fed = works_on_operands(c, tensors, context.machine)
    linear = linear_of(op, c, tensors, context.machine) if fed else None
    if linear is None:
        return group
    piece = op.pieces[0]
    body = replaced(piece.body, linear.node, halved(linear, op.outputs[0].dtype, tensors))
    split = replace(op, pieces=(replace(piece, body=body),))
    changed = tuple(split if o is op else o for o in group)
    rest = (found.root, c, tensors, context.machine)
    return (
        changed
        if busiest(changed, *rest, linear=linear_of(split, *rest[1:])) < busiest(group, *rest)
        else group
    )
