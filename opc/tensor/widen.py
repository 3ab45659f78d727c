"""A function in double precision throughout: what it declares as f32 becomes f64 too."""

from __future__ import annotations

from dataclasses import replace

from opc.dtypes import DType
from opc.tensor.ir import Call, Const, Expr, Function, Op, Tensor, rewrite


def widened(function: Function) -> Function:
    """The function with every f32 tensor, literal, conversion and accumulator in f64."""
    args = tuple(replace(a, tensor=_tensor(a.tensor)) for a in function.args)
    return replace(function, args=args, ops=tuple(map(_op, function.ops)))


def _op(op: Op) -> Op:
    pieces = tuple(replace(p, body=rewrite(p.body, _expression)) for p in op.pieces)
    accumulate = DType.F64 if op.accumulate is DType.F32 else op.accumulate
    return replace(op, outputs=tuple(map(_tensor, op.outputs)), pieces=pieces, accumulate=accumulate)


def _tensor(tensor: Tensor) -> Tensor:
    return replace(tensor, dtype=DType.F64) if tensor.dtype is DType.F32 else tensor


def _expression(node: Expr) -> Expr:
    if isinstance(node, Const) and node.dtype is DType.F32:
        return replace(node, dtype=DType.F64)
    return replace(node, fn="f64") if isinstance(node, Call) and node.fn == "f32" else node
