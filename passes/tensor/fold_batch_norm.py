"""Compute once, in prepare, what an op computes from parameters alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.pipeline import Context
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Dim, Expr, Function, Op, Piece, Read, Tensor, reads, walk
from passes.tensor._algebra import (
    canonical,
    expr_dims,
    expr_reads,
    expr_type,
    fresh,
    inside,
    is_pointwise,
    is_total,
    parameters,
)


@dataclass(frozen=True)
class FoldBatchNorm:
    """Hoist subexpressions of parameters into prepare ops, after gathering the factors of a run-time value.

    Nothing here knows batch norm: an expression that depends on ``param`` arguments and literals only is
    computed once, over exactly the dimensions it uses, in the type it was computed in. Chains
    ``(x * p) * q``, ``(x * p) / q``, ``(x / p) * q`` of a run-time ``x`` first become ``x * (p * q)``,
    ``x * (p / q)``, ``x * (q / p)``, so that a normalisation ends as ``(x - mean[k]) * scale[k] + beta[k]``.
    The scale is not multiplied into weights, and a sum is never re-associated.

    Why the result stays within the bound of the source: let u be the unit roundoff. The source rounds
    twice, after p and after q, so its bound holds |x p q| (dp + dq + 2u), dp and dq being the relative errors
    of p and q. The new form rounds p * q once and its product with x once: the same sum. But the oracle
    counts a rounding only where it can happen: on exact data x * p may be exact and p * q not. Hence
    the condition that p is never exact (it holds a function that is not correctly rounded, as rsqrt):
    then the source's bound counts both roundings for any data. Products of parameters that leave the
    range of their type are the one exception.

    Why not ``x*A + B`` with B = beta - mean*A, which would save the subtraction: its error holds u|xA| +
    u|mean*A| + u|B|, the source's only the error of x itself times |A|. With x = mean exactly, say a
    convolution of integers that gives 100 and mean 100, the source is exactly beta; with scale 316 the
    other form is off by 4e-3. No count of the roundings in the sum that made x covers that.

    Before:
        func v1 scaled {
          arg x: f32[8,16] input
          arg gamma: f32[16] param
          arg mean: f32[16] param
          arg var: f32[16] param
          op y: f32[8,16] line 2 {
            piece i<8, k<16 at i, k = mul(mul(sub(x[i, k], mean[k]), rsqrt(add(var[k], 1e-05))), gamma[k])
          }
          return y
        }
    After:
        func v1 scaled {
          arg x: f32[8,16] input
          arg gamma: f32[16] param
          arg mean: f32[16] param
          arg var: f32[16] param
          op y_prepared: f32[16] prepare line 2 {
            piece k<16 at k = mul(rsqrt(add(var[k], 1e-05)), gamma[k])
          }
          op y: f32[8,16] line 2 {
            piece i<8, k<16 at i, k = mul(sub(x[i, k], mean[k]), y_prepared[k])
          }
          return y
        }
    """

    name: ClassVar[str] = "fold-batch-norm"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        folder = _Folder(ir)
        for op in ir.ops:
            folder.add(op)
        ops = tuple(folder.ops)
        return ir if ops == ir.ops else ir.with_ops(ops)


@dataclass(frozen=True, slots=True)
class _Value:
    """``run * factor`` or ``run / divisor``; with ``run`` None, ``factor`` is an expression of parameters."""

    run: Expr | None
    factor: Expr | None = None
    divisor: Expr | None = None


class _Folder:
    """The function so far, with what was hoisted before the ops that read it."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.keep = {*function.results, *(a.tensor.name for a in function.args if a.kind == "inout")}
        self.parameters = set(parameters(function))
        self.tensors = dict(function.tensors())
        self.ops: list[Op] = []
        self.prepared: dict[Op, str] = {}  # canonical prepare op -> its output
        self.inexact: set[str] = set()  # prepared tensors that the oracle never takes for exact

    def add(self, op: Op) -> None:
        """Append ``op``, with the parameters' part of it hoisted."""
        names = {r.tensor for r in reads(op)}
        if not names or op.prepare:
            self._append(op)
        elif not names <= self.parameters:
            self._append(replace(op, pieces=tuple(self._piece(op, p) for p in op.pieces)))
        elif any(t.name in self.keep for t in op.outputs):
            self._append(op)
        else:
            self._append(replace(op, prepare=True))

    def _append(self, op: Op) -> None:
        self.ops.append(op)
        if op.prepare:
            self.parameters.update(t.name for t in op.outputs)
            self.prepared.setdefault(canonical(op), op.name)
            if is_pointwise(op) and is_total(op) and self._never_exact(op.pieces[0].body):
                self.inexact.add(op.name)

    def _piece(self, op: Op, piece: Piece) -> Piece:
        done: list[_Value] = []
        for node in walk(piece.body):
            if isinstance(node, Call):
                args = done[len(done) - len(node.args) :]
                del done[len(done) - len(node.args) :]
                done.append(self._combine(node, args, op, piece))
            elif isinstance(node, Const) or (isinstance(node, Read) and node.tensor in self.parameters):
                done.append(_Value(None, node))
            else:
                done.append(_Value(node))
        body = self._expr(done[0], op, piece)
        return piece if body == piece.body else replace(piece, body=body)

    def _combine(self, node: Call, args: list[_Value], op: Op, piece: Piece) -> _Value:
        if all(a.run is None for a in args):
            return _Value(None, Call(node.fn, tuple(a.factor for a in args if a.factor is not None)))
        if node.fn == "mul" and args[0].run is None and not piece.reduce:
            args = args[::-1]
        if node.fn not in ("mul", "div") or args[1].run is not None or piece.reduce:
            return _Value(Call(node.fn, tuple(self._expr(a, op, piece) for a in args)))
        value, other = args[0], args[1].factor
        assert other is not None
        merged = self._merge(value, node.fn, other)
        if merged is None:
            run = self._expr(value, op, piece)
            merged = _Value(run, other) if node.fn == "mul" else _Value(run, None, other)
        return merged

    def _merge(self, value: _Value, fn: str, other: Expr) -> _Value | None:
        """``value`` times or over ``other`` as one factor; None if that could leave the source's bound."""
        pending = value.factor or value.divisor
        if pending is None or value.run is None or not self._never_exact(pending):
            return None
        types = {
            expr_type(Call("mul", pair), self.tensors) for pair in ((value.run, pending), (pending, other))
        }
        if len(types) != 1:
            return None
        if value.factor is not None:
            return _Value(value.run, Call(fn, (pending, other)))
        if fn == "mul":
            return _Value(value.run, Call("div", (other, pending)))
        return _Value(value.run, None, Call("mul", (pending, other)))

    def _expr(self, value: _Value, op: Op, piece: Piece) -> Expr:
        if value.run is None:
            assert value.factor is not None
            return self._hoist(value.factor, op, piece)
        if value.factor is not None:
            return Call("mul", (value.run, self._hoist(value.factor, op, piece)))
        if value.divisor is not None:
            return Call("div", (value.run, self._hoist(value.divisor, op, piece)))
        return value.run

    def _hoist(self, expr: Expr, op: Op, piece: Piece) -> Expr:
        """A read of a prepare op that computes ``expr``, or ``expr`` where that does not pay."""
        if not isinstance(expr, Call):
            return expr
        dims = tuple(d for d in (*piece.dims, *piece.reduce) if d.name in expr_dims(expr))
        dtype = expr_type(expr, self.tensors)
        if dtype is None or not self._pays(expr, dtype, dims, piece):
            return Call(expr.fn, tuple(self._hoist(a, op, piece) for a in expr.args))
        index = tuple(Affine.var(d.name) for d in dims)
        name = fresh(f"{op.name}_prepared", self.tensors)
        tensor = Tensor(name, dtype, tuple(d.extent for d in dims))
        made = Op((tensor,), (Piece(dims, index, expr),), prepare=True, line=op.line)
        known = self.prepared.get(canonical(made))
        if known is None:
            self.tensors[name] = tensor
            self._append(made)
        return Read(known or name, index)

    def _pays(self, expr: Expr, dtype: DType, dims: tuple[Dim, ...], piece: Piece) -> bool:
        """Whether there is work to save, more of it than memory traffic added."""
        extents = piece.extents
        work = any(isinstance(n, Call) and FUNCTIONS[n.fn].kind != "cast" for n in walk(expr))
        inner = expr_reads(expr)
        if not inner or not work or prod(d.extent for d in dims) >= prod(extents.values()):
            return False
        if piece.reduce and any(self.tensors[r.tensor].dtype is not dtype for r in inner):
            # In a contraction it would turn a narrow operand into a wide one.
            return False
        # The prepare op runs over the whole box, also where guards cut the piece.
        shapes = [self.tensors[r.tensor].shape for r in inner]
        pairs = zip(inner, shapes, strict=True)
        return all(r.fill is not None or inside(r.index, shape, extents) for r, shape in pairs)

    def _type(self, a: Expr, b: Expr) -> DType | None:
        return expr_type(Call("mul", (a, b)), self.tensors)

    def _never_exact(self, expr: Expr) -> bool:
        """Whether the oracle gives ``expr`` an error whatever the data."""
        if isinstance(expr, Read):
            return expr.tensor in self.inexact
        if not isinstance(expr, Call) or FUNCTIONS[expr.fn].kind == "compare" or expr.fn in ("i32", "i8"):
            return False
        args = expr.args[1:] if expr.fn == "select" else expr.args
        return FUNCTIONS[expr.fn].ulp > 0.5 or any(self._never_exact(a) for a in args)
