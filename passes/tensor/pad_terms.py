"""Read 0 outside a tensor instead of skipping the terms that would read there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.affine import Affine
from opc.pipeline import Context
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Function, Op, Piece, Read, rewrite
from passes.tensor._algebra import Tensors, expr_reads, inside


@dataclass(frozen=True)
class PadTerms:
    """Guards over reduced dimensions that only keep a factor inside its tensor give way to a read of 0 outside.

    A matrix unit has no terms to skip, and vector code would compare indices for every term. A gradient has such
    guards: its sums run over what reads an element, which ends at the edge of a tensor. The terms that come back
    are 0 times the other factors. Only an infinity or NaN among those makes a difference, and it is one that reaches
    the terms inside as well.

    Before:
        func v1 conv_bwd {
          arg d_y: f32[8] input
          arg w: f32[3] param
          op d_x: f32[8] sum accumulate f32 line 1 {
            piece i<8 reduce r<3 at i guard i - r + 1, -i + r + 6 = mul(d_y[i - r + 1], w[r])
          }
          return d_x
        }
    After:
        func v1 conv_bwd {
          arg d_y: f32[8] input
          arg w: f32[3] param
          op d_x: f32[8] sum accumulate f32 line 1 {
            piece i<8 reduce r<3 at i = mul(d_y[i - r + 1] else 0, w[r])
          }
          return d_x
        }
    """

    name: ClassVar[str] = "pad-terms"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        tensors = ir.tensors()
        ops = tuple(_padded(op, tensors) if op.monoid == "sum" else op for op in ir.ops)
        return ir if ops == ir.ops else ir.with_ops(ops)


def _padded(op: Op, tensors: Tensors) -> Op:
    return replace(op, pieces=tuple(_pad(p, tensors) for p in op.pieces))


def _pad(piece: Piece, tensors: Tensors) -> Piece:
    reduced = {d.name for d in piece.reduce}
    skipping = {g for g in piece.guards if g.names & reduced}
    if not skipping:
        return piece
    factors = {r for r in expr_reads(piece.body) if r.fill is None and skipping <= _bounds(r, tensors)}
    if not _is_zero(piece.body, factors):
        return piece

    def leaf(node: Expr) -> Expr:
        if not isinstance(node, Read) or node.fill is not None:
            return node
        known = inside(node.index, tensors[node.tensor].shape, piece.extents)
        return node if known else replace(node, fill=0)

    guards = tuple(g for g in piece.guards if g not in skipping)
    return replace(piece, guards=guards, body=rewrite(piece.body, leaf))


def _bounds(read: Read, tensors: Tensors) -> set[Affine]:
    """Forms that are >= 0 exactly where the read is inside."""
    axes = zip(read.index, tensors[read.tensor].shape, strict=True)
    return {bound for form, extent in axes for bound in (form, form * -1 + (extent - 1))}


def _is_zero(expr: Expr, zeros: Collection[Read]) -> bool:
    """Whether ``expr`` is 0 where the reads in ``zeros`` are, if all else is finite."""
    if isinstance(expr, Const):
        return expr.value == 0
    if not isinstance(expr, Call):
        return expr in zeros
    known = [_is_zero(arg, zeros) for arg in expr.args]
    if expr.fn == "mul":
        return any(known)
    if expr.fn == "div":
        return known[0]
    if expr.fn == "select":
        return all(known[1:])
    return (expr.fn in ("add", "sub", "neg") or FUNCTIONS[expr.fn].kind == "cast") and all(known)
