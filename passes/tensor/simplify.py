"""Remove what the sizes and literals of a specialised function make trivial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.pipeline import Context
from opc.tensor.ir import Expr, Function, Op, Piece, Read, rewrite
from passes.tensor._algebra import Tensors, apply_to_piece, is_pointwise, is_total, rename_tensors
from passes.tensor._rules import simplify_node


@dataclass(frozen=True)
class Simplify:
    """Dimensions of extent 1, guards that always hold, fills that nothing reads, expressions with a
    simpler equal, and ops that only copy another tensor: a result takes the place of what it would copy.

    Every rewrite keeps the bits of the result, whatever the data: ``x + 0.0`` stays (it turns -0.0 into
    0.0), and sums are never reordered.

    Before:
        func v1 scaled {
          arg x: f32[1,8] input
          op a: f32[1,8] line 1 {
            piece n<1, i<8 at n, i guard -i + 7 = x[n, i] else 0.0
          }
          op y: f32[1,8] line 2 {
            piece n<1, i<8 at n, i = mul(neg(a[n, i]), 2.0)
          }
          return y
        }
    After:
        func v1 scaled {
          arg x: f32[1,8] input
          op y: f32[1,8] line 2 {
            piece i<8 at 0, i = mul(x[0, i], -2.0)
          }
          return y
        }
    """

    name: ClassVar[str] = "simplify"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        return simplified(ir)


def simplified(ir: Function) -> Function:
    """The function in simpler terms, to the same bits."""
    tensors = ir.tensors()
    updated = ir.updated()
    copies: dict[str, str] = {}
    # What parameters make once is not a result of every run.
    prepared = (t.name for op in ir.ops if op.prepare for t in op.outputs)
    kept = {*ir.results, *(a.tensor.name for a in ir.args), *prepared}
    handed: dict[str, str] = {}
    ops: list[Op] = []
    for original in ir.ops:
        op = _simplify_op(rename_tensors(original, copies), tensors)
        source = _copied(op, tensors)
        if source is None or op.name in updated or source in updated:
            ops.append(op)
        elif op.name not in ir.results:
            copies[op.name] = source
        elif source in kept or source in handed:
            ops.append(op)
        else:
            handed[source] = op.name
    ops = [_renamed(op, handed) for op in ops]
    return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(ops))


def _renamed(op: Op, names: Mapping[str, str]) -> Op:
    """``op`` with other names for what it reads and writes."""
    outputs = tuple(replace(t, name=names.get(t.name, t.name)) for t in op.outputs)
    return replace(rename_tensors(op, names), outputs=outputs)


def _simplify_op(op: Op, tensors: Tensors) -> Op:
    keep_one = op.monoid is not None and op.monoid not in ("sum", "max", "min")
    pieces = tuple(_simplify_piece(p, keep_one, tensors) for p in op.pieces)
    if op.monoid is not None and not any(p.reduce for p in pieces) and not keep_one:
        # The sum or extremum of one term is the term.
        op = replace(op, monoid=None, accumulate=None)
    fill = None if len(pieces) == 1 and _covers(op, pieces[0]) else op.fill
    return replace(op, pieces=pieces, fill=fill)


def _simplify_piece(piece: Piece, keep_one: bool, tensors: Tensors) -> Piece:
    extents = piece.extents
    guards = tuple(dict.fromkeys(g for g in piece.guards if g.interval(extents)[0] < 0))
    guarded = frozenset(name for g in guards for name in g.names)
    # A guard on a reduced dimension skips a term, without it it would leave the element unwritten.
    reduce = tuple(d for d in piece.reduce if d.extent > 1 or d.name in guarded)
    if keep_one and not reduce:
        reduce = piece.reduce[:1]
    kept = {d.name for d in reduce}
    dims = tuple(d for d in piece.dims if d.extent > 1)
    zeros = {d.name: 0 for d in (*piece.dims, *piece.reduce) if d.extent == 1 and d.name not in kept}
    piece = apply_to_piece(replace(piece, reduce=reduce, guards=guards), zeros, dims)

    def leaf(node: Expr) -> Expr:
        return simplify_node(node, tensors, extents)

    return replace(piece, body=rewrite(piece.body, leaf))


def _covers(op: Op, piece: Piece) -> bool:
    """Whether the piece writes every element of the output, plainly."""
    extents = {d.name: d.extent for d in piece.dims}
    names = [name for form in piece.index if (name := form.as_var()) is not None]
    if piece.guards or len(set(names)) < len(names):
        return False
    for form, extent in zip(piece.index, op.outputs[0].shape, strict=True):
        name = form.as_var()
        if not (extents[name] == extent if name is not None else form.is_const and extent == 1):
            return False
    return True


def _copied(op: Op, tensors: Tensors) -> str | None:
    """The tensor that ``op`` copies without changing shape, order or type."""
    if not (is_pointwise(op) and is_total(op)):
        return None
    piece = op.pieces[0]
    if not isinstance(piece.body, Read) or piece.guards or piece.body.index != piece.index:
        return None
    source, out = tensors[piece.body.tensor], op.outputs[0]
    same = replace(source, name=out.name, order=None) == replace(out, order=None)
    return source.name if same and source.memory_order == out.memory_order else None
