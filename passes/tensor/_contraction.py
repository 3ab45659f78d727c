"""Recognising contractions, the ops a matrix unit runs, by their index pattern alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from opc.dtypes import DType
from opc.tensor.ir import Call, Dim, Expr, Function, Op, Piece, Read
from passes.tensor._algebra import Tensors, parameters

# Cast -> types whose values it all keeps.
_KEEPS = {
    "f64": {DType.F64, DType.F32, DType.F16, DType.BF16},
    "f32": {DType.F32, DType.F16, DType.BF16},
    "f16": {DType.F16},
    "bf16": {DType.BF16},
    "i32": {DType.I32, DType.I8},
    "i8": {DType.I8},
}


@dataclass(frozen=True, slots=True)
class Contraction:
    """``out[batch, m, n] = sum[k](a[batch, m, k] * b[batch, k, n])`` in terms of an op's own dimensions.

    Every parallel dimension of the op is in exactly one of ``batch`` (indexes both operands), ``m`` (only
    ``a``), ``n`` (only ``b``) or ``broadcast`` (neither); ``k`` holds all reduced dimensions. Each tuple
    keeps the op's order. ``a`` and ``b`` are the reads as they stand in the body, casts stripped;
    ``swapped`` says that ``b`` is the first factor there.
    """

    a: Read
    b: Read
    batch: tuple[Dim, ...]
    m: tuple[Dim, ...]
    n: tuple[Dim, ...]
    k: tuple[Dim, ...]
    broadcast: tuple[Dim, ...]
    swapped: bool
    guarded: bool  # guards skip reduced terms
    fixed: bool  # ``b`` depends on parameters only

    @property
    def is_cube(self) -> bool:
        """Whether a matrix unit computes it: columns of its own (a depthwise convolution has none), a
        shared reduced dimension and none that neither operand has, no term that must be skipped instead of
        multiplied by zero, and nothing beyond an edge that zero does not stand for. There may be no ``m``: a
        single row.
        """
        if self.b.fill or not isfinite(self.a.fill or 0):
            return False
        shared = any(uses(self.a, d) and uses(self.b, d) for d in self.k)
        found = all(uses(self.a, d) or uses(self.b, d) for d in self.k)
        return bool(self.n) and shared and found and not self.broadcast and not self.guarded


def classify_contraction(op: Op, function: Function) -> Contraction | None:
    """The contraction that ``op`` is, or None: one piece, monoid sum, at least one reduced dimension,
    body ``mul`` of two reads, each perhaps under casts that keep its value.

    ``b`` is the operand that depends on parameters only (``param`` arguments and prepare ops). If both or
    neither do, ``b`` is the one that the output's fastest dimension indexes, so that ``n`` is contiguous
    in the output; if that does not decide either, it is the second factor.
    """
    if op.monoid != "sum" or len(op.pieces) != 1 or not op.pieces[0].reduce:
        return None
    piece, tensors = op.pieces[0], function.tensors()
    pair = factors(piece.body, tensors)
    if pair is None:
        return None
    params = parameters(function)
    swapped = _first_is_b(op, pair, params)
    a, b = pair[::-1] if swapped else pair
    reduced = {d.name for d in piece.reduce}

    def dims(in_a: bool, in_b: bool) -> tuple[Dim, ...]:
        return tuple(d for d in piece.dims if (uses(a, d), uses(b, d)) == (in_a, in_b))

    return Contraction(
        a=a,
        b=b,
        batch=dims(True, True),
        m=dims(True, False),
        n=dims(False, True),
        k=piece.reduce,
        broadcast=dims(False, False),
        swapped=swapped,
        guarded=any(g.names & reduced for g in piece.guards),
        fixed=b.tensor in params,
    )


def uses(read: Read, dim: Dim) -> bool:
    return any(f.coefficient(dim.name) for f in read.index)


def factors(body: Expr, tensors: Tensors) -> tuple[Read, Read] | None:
    """The two reads that ``body`` is the product of, each perhaps under casts that keep its value."""
    if not (isinstance(body, Call) and body.fn == "mul"):
        return None
    first, second = (_plain_read(arg, tensors) for arg in body.args)
    return (first, second) if first is not None and second is not None else None


def _plain_read(expr: Expr, tensors: Tensors) -> Read | None:
    """The read under casts that keep every value of its type."""
    casts: list[str] = []
    while isinstance(expr, Call) and len(expr.args) == 1 and expr.fn in _KEEPS:
        casts.append(expr.fn)
        expr = expr.args[0]
    if not isinstance(expr, Read):
        return None
    have = tensors[expr.tensor].dtype
    return expr if all(have in _KEEPS[to] for to in casts) else None


def _first_is_b(op: Op, pair: tuple[Read, Read], params: frozenset[str]) -> bool:
    first, second = pair
    if (first.tensor in params) != (second.tensor in params):
        return first.tensor in params
    piece = op.pieces[0]
    fastest = _fastest_dim(op, piece)
    if fastest is None:
        return False
    return uses(first, fastest) and not uses(second, fastest)


def _fastest_dim(op: Op, piece: Piece) -> Dim | None:
    """The parallel dimension with the smallest stride in the output's memory."""
    stride, best = 1, None
    for axis in reversed(op.outputs[0].memory_order):
        for dim in piece.dims:
            step = abs(piece.index[axis].coefficient(dim.name)) * stride
            if step and dim.extent > 1 and (best is None or step < best[0]):
                best = (step, dim)
        stride *= op.outputs[0].shape[axis]
    return best[1] if best is not None else None
