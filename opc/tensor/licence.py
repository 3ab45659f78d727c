"""What a bound counts under the licence beyond what the IR says: a sum may start from what is added to it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from opc.tensor.ir import Call, Const, Expr, Function, Op, Piece, Read, rewrite


def first_terms(f: Function) -> Function:
    """``f`` with additions to sums of L terms as if they came first: the term then takes part in L roundings.

    ``a + e`` becomes ``((a + 2L e) + e) - 2L e``, the same value: its error is at least ``L u |e|`` unless ``|a|`` is
    at least ``L |e|``, and then that of the sum itself is.
    """
    sums = {op.name: prod(d.extent for d in op.pieces[0].reduce) for op in f.ops if _is_sum(op)}
    return f.with_ops(tuple(_started(op, sums) for op in f.ops))


def _is_sum(op: Op) -> bool:
    return op.monoid == "sum" and len(op.pieces) == 1 and (op.accumulate or op.outputs[0].dtype).is_float


def _started(op: Op, sums: dict[str, int]) -> Op:
    if op.monoid is not None:
        return op

    def piece(p: Piece) -> Piece:
        return replace(p, body=rewrite(p.body, lambda node: _drifted(node, sums)))

    return replace(op, pieces=tuple(piece(p) for p in op.pieces))


def _drifted(node: Expr, sums: dict[str, int]) -> Expr:
    if not isinstance(node, Call) or node.fn != "add":
        return node
    a, b = node.args
    if not isinstance(a, Read) or not isinstance(b, Read):
        return node
    if a.tensor not in sums:
        a, b = b, a
    if a.tensor not in sums:
        return node
    often = Call("mul", (b, Const(2.0 * sums[a.tensor])))
    return Call("sub", (Call("add", (Call("add", (a, often)), b)), often))
