"""Read what another op stores instead of computing it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.cost import vector_model
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Function, Op, Piece, Read, Tensor, reads, rewrite, walk
from passes.tensor._algebra import inside, is_pointwise, is_total

# What gives back one of its operands as it is.
_PICKING = frozenset({"select", "max", "min"})


@dataclass(frozen=True)
class Reuse:
    """Where the vector unit has a memory of its own, copies run beside it: an expression that only picks among values
    of the type in which another op stores the same is read from there, if storing takes no longer than picking.
    Values of a wider type would be rounded, so they stay.

    ReLU's gradient is such an op: it is summed up, and it is a part of the gradient of what was normalised.

    Before:
        func v1 f {
          arg y: f16[8,4] input
          arg d: f16[8,4] input
          arg s: f32[4] input
          op m: f16[8,4] line 1 {
            piece i<8, j<4 at i, j = select(le(y[i, j], 0), 0.0, d[i, j])
          }
          op z: f16[8,4] line 2 {
            piece n<8, c<4 at n, c = mul(select(le(y[n, c], 0), 0.0, d[n, c]), s[c])
          }
          return m, z
        }
    After:
        func v1 f {
          arg y: f16[8,4] input
          arg d: f16[8,4] input
          arg s: f32[4] input
          op m: f16[8,4] line 1 {
            piece i<8, j<4 at i, j = select(le(y[i, j], 0), 0.0, d[i, j])
          }
          op z: f16[8,4] line 2 {
            piece n<8, c<4 at n, c = mul(m[n, c], s[c])
          }
          return m, z
        }
    """

    name: ClassVar[str] = "reuse"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """Every op that computes what an earlier one stores reads that; the same function if none does."""
        machine = context.machine
        if not machine.role("vector").addressable:
            return ir
        tensors = ir.tensors()
        updated = ir.updated()
        found: list[Op] = []
        ops: list[Op] = []
        for op in ir.ops:
            changed = _reading(op, found, tensors)
            ops.append(changed)
            if not {r.tensor for r in reads(op)} & updated and _stores_what_it_picks(op, tensors, machine):
                found.append(op)
        return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(ops))


def _stores_what_it_picks(op: Op, tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    """Whether an op only picks among values of its own type, one dim per axis, and storing them takes no longer."""
    piece, dtype = op.pieces[0], op.outputs[0].dtype
    if not is_pointwise(op) or not is_total(op) or op.prepare or not isinstance(piece.body, Call):
        return False
    plain = all(f.as_var() is not None for f in piece.index) and piece.body.fn in _PICKING
    calls = [n for n in walk(piece.body) if isinstance(n, Call)]
    picks = all(n.fn in _PICKING or FUNCTIONS[n.fn].kind == "compare" for n in calls)
    types = {tensors[r.tensor].dtype for r in reads(op)}
    back = machine.route("copy_out", machine.roles["vector"], machine.roles["memory"])
    if not plain or not picks or types != {dtype} or dtype.compute is dtype or back is None:
        return False
    made = sum(_cycles(n, dtype, machine) for n in calls)
    return made >= dtype.bytes / back.bandwidth


def _cycles(node: Call, dtype: DType, machine: Machine) -> float:
    """Vector cycles per element."""
    chosen = FUNCTIONS[node.fn].kind == "select"
    model = vector_model(machine, node.fn, DType.I8 if chosen else dtype, dtype)
    return model.slope * dtype.bytes / machine.vector_bytes


def _reading(op: Op, makers: list[Op], tensors: Mapping[str, Tensor]) -> Op:
    """The op with every expression that one of the others stores as a read of that."""

    def picked(piece: Piece) -> Piece:
        def leaf(node: Expr) -> Expr:
            found = (r for m in makers if (r := _stored(node, m)) is not None)
            # A maker may store a part of what it could.
            return next((r for r in found if inside(r.index, tensors[r.tensor].shape, piece.extents)), node)

        return replace(piece, body=rewrite(piece.body, leaf))

    if op.prepare:
        return op
    pieces = tuple(picked(p) for p in op.pieces)
    return op if pieces == op.pieces else replace(op, pieces=pieces)


def _stored(node: Expr, maker: Op) -> Read | None:
    """Where ``maker`` stores the value of an expression."""
    piece = maker.pieces[0]
    values: dict[str, Affine] = {}
    if not isinstance(node, Call) or not _alike(piece.body, node, values) or len(values) < len(piece.dims):
        return None
    return Read(maker.name, tuple(f.substitute(dict(values)) for f in piece.index))


def _alike(made: Expr, node: Expr, values: dict[str, Affine]) -> bool:
    """Whether an expression is ``made`` at some element; ``values``: what the dims are there."""
    if isinstance(made, Call) and isinstance(node, Call):
        same = made.fn == node.fn and len(made.args) == len(node.args)
        return same and all(_alike(m, n, values) for m, n in zip(made.args, node.args, strict=True))
    if not isinstance(made, Read) or not isinstance(node, Read):
        return isinstance(made, Const) and made == node
    if made.tensor != node.tensor or made.fill != node.fill:
        return False
    for form, wanted in zip(made.index, node.index, strict=True):
        name = form.as_var()
        if name is None or values.setdefault(name, wanted) != wanted:
            return False
    return True
