"""Sums of products with differences, distributed over these, where the cube can then make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import FAST, Context
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Function, Op, Piece, Read, Tensor
from opc.tensor.roles import is_contraction
from passes.tensor._algebra import canonical, expr_dims, fresh
from passes.tensor._cube_sums import is_summed

Reads = tuple[Read, ...]
Terms = dict[
    Reads, Expr | None
]  # products of reads (none: a coefficient alone), and their coefficients (none: 1)

_FACTORS = 2  # of a summand that the cube takes


@dataclass(frozen=True)
class DistributeSums:
    """Take a sum of ``z * (x - m)``, m the same for all terms, from the sum of ``z * x`` and that of z.

    Licensed by ``numerics="fast"`` only, and done where all new sums are of values, or products of two, in a type that
    the machine's cube multiplies, and a nest of those that nothing makes yet takes less time than one of the old sum:
    where a vector unit has to make each summand, that is, and the cube takes plain products from memory.

    Exact arithmetic gives the same values. The difference cancels where m is far from zero: with x of standard
    deviation s around m, the error of ``sum z x - m sum z`` is about ``u n |z| (|m| + s)``, against ``u n |z| s`` for
    the sum as written, so that with ``|m| = r s`` it is r + 1 times as large; u is that of the sums' type.

    Before:
        func v1 backward {
          arg z: f16[32,784,64] input
          arg x: f16[32,784,64] input
          arg m: f32[64] input
          op d: f32[32,64] sum accumulate f32 line 1 {
            piece n<32, c<64 reduce i<784 at n, c = mul(z[n, i, c], sub(x[n, i, c], m[c]))
          }
          return d
        }
    After:
        func v1 backward {
          arg z: f16[32,784,64] input
          arg x: f16[32,784,64] input
          arg m: f32[64] input
          op d.0: f32[32,64] sum accumulate f32 line 1 {
            piece n<32, c<64 reduce i<784 at n, c = mul(x[n, i, c], z[n, i, c])
          }
          op d.1: f32[32,64] sum accumulate f32 line 1 {
            piece n<32, c<64 reduce i<784 at n, c = z[n, i, c]
          }
          op d: f32[32,64] line 1 {
            piece n<32, c<64 at n, c = sub(d.0[n, c], mul(d.1[n, c], m[c]))
          }
          return d
        }
    """

    name: ClassVar[str] = "distribute-sums"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """The function with sums distributed; the same one if that pays for none."""
        if context.numerics != FAST:
            return ir
        known = {canonical(op).pieces: op for op in ir.ops if op.monoid == "sum" and _is_free(op, ir)}
        # A sum that exists may stand behind the one that is made of it now; both read the same tensors.
        ops = dict.fromkeys(o for op in ir.ops for o in _distributed(op, ir, context.machine, known))
        return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(ops))


def _distributed(
    op: Op, f: Function, machine: Machine, known: Mapping[tuple[Piece, ...], Op]
) -> Iterator[Op]:
    """The sums that an op becomes and what is made of them; the op itself if that does not pay."""
    found = _terms_of(op, f, machine)
    if not found:
        yield op
        return
    names = set(f.tensors())
    made: list[Op] = []
    used: list[Op] = []
    body: Expr | None = None
    for reads, factor in found.items():
        own = _sum(op, reads, fresh(f"{op.name}.{len(made)}", names))
        there = known.get(canonical(own).pieces)
        same = there is not None and there is not op and there.accumulate is own.accumulate
        if there is None or not same or there.outputs[0].dtype is not own.outputs[0].dtype:
            made.append(own)
            names.add(own.name)
            there = own
        used.append(there)
        value: Expr = Read(there.name, op.pieces[0].index)
        body = _joined(body, value, factor)
    if not _pays(op, made, f, machine):
        yield op
        return
    yield from used
    assert body is not None
    yield replace(op, pieces=(replace(op.pieces[0], body=body, reduce=()),), monoid=None, accumulate=None)


def _is_free(op: Op, f: Function) -> bool:
    """Whether a sum could as well stand before others: it writes over no argument."""
    return op.name not in {a.tensor.name for a in f.args}


def _sum(op: Op, reads: Reads, name: str) -> Op:
    body: Expr = reads[0] if len(reads) == 1 else Call("mul", reads)
    total = Tensor(name, op.accumulate or op.outputs[0].dtype, op.outputs[0].shape)
    return replace(op, outputs=(total,), pieces=(replace(op.pieces[0], body=body),))


def _pays(op: Op, made: list[Op], f: Function, machine: Machine) -> bool:
    """Whether a nest of new sums takes less time than one of the old one."""
    from passes.lowering._rows import group_cycles  # lowering prices its own nests

    tensors = {**f.tensors(), **{o.name: o.outputs[0] for o in made}}
    old = group_cycles((op,), tensors, frozenset({op.name}), machine)
    new = group_cycles(made, tensors, frozenset(o.name for o in made), machine) if made else 0.0
    return new < old < inf


def _terms_of(op: Op, f: Function, machine: Machine) -> Terms | None:
    """What a sum is distributed into, if it has other summands than plain products, and the cube takes all of those."""
    if op.monoid != "sum" or len(op.pieces) != 1 or op.prepare or op.fill is not None or is_contraction(op):
        return None
    piece, tensors = op.pieces[0], f.tensors()
    place = piece.index
    if piece.guards or not piece.reduce or {f.as_var() for f in place} != {d.name for d in piece.dims}:
        return None
    total = op.accumulate or op.outputs[0].dtype.compute
    if op.outputs[0].dtype is not total:
        return None
    found = _Terms({d.name for d in piece.reduce}).of(piece.body)
    if found is None or () in found or all(factor is None for factor in found.values()):
        return None
    fits = all(len(r) <= _FACTORS and is_summed(_sum(op, r, op.name), tensors, machine) for r in found)
    return found if fits else None


class _Terms:
    """Expressions as sums of products of what varies over ``rows``."""

    def __init__(self, rows: set[str]) -> None:
        self.rows = rows

    def of(self, expr: Expr) -> Terms | None:
        """None where an expression is something else."""
        if not expr_dims(expr) & self.rows:
            return {(): expr}
        if isinstance(expr, Read):
            return {(expr,): None}
        if not isinstance(expr, Call):
            return None
        if FUNCTIONS[expr.fn].kind == "cast" and expr.fn in ("f32", "f64"):
            return self.of(expr.args[0])
        if expr.fn not in ("add", "sub", "mul"):
            return None
        left, right = (self.of(a) for a in expr.args)
        if left is None or right is None:
            return None
        return _product(left, right) if expr.fn == "mul" else _total(left, right, expr.fn == "sub")


def _product(left: Terms, right: Terms) -> Terms:
    found: Terms = {}
    for a, x in left.items():
        for b, y in right.items():
            factor = y if x is None else x if y is None else Call("mul", (x, y))
            found = _total(found, {tuple(sorted((*a, *b), key=str)): factor}, False)
    return found


def _total(left: Terms, right: Terms, negative: bool) -> Terms:
    found = dict(left)
    for reads, factor in right.items():
        signed = factor if not negative else Const(-1.0) if factor is None else Call("neg", (factor,))
        before = found.get(reads, Const(1.0))
        found[reads] = (
            signed if reads not in found else Call("add", (before or Const(1.0), signed or Const(1.0)))
        )
    return found


def _joined(body: Expr | None, value: Expr, factor: Expr | None) -> Expr:
    """``body + value * factor``."""
    negative = isinstance(factor, Call) and factor.fn == "neg"
    inner = factor.args[0] if isinstance(factor, Call) and negative else factor
    term = value if inner is None else Call("mul", (value, inner))
    if body is None:
        return Call("neg", (term,)) if negative else term
    return Call("sub" if negative else "add", (body, term))
