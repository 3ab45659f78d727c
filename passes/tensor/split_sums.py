"""Cut long sums of outer products into parts that different cores may compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.tensor.ir import Dim, Expr, Function, Op, Piece, Read, Tensor, rewrite
from passes.tensor._algebra import fresh
from passes.tensor._contraction import Contraction, classify_contraction
from passes.tensor._outer_products import nearest, oriented, pairable, pure, sums_outer_products
from passes.tensor._prologue import stages
from passes.tensor._staged_parts import staged_parts

_TERMS = 512  # of a part at least: storing it and adding it up then takes a few hundredths of its time
_FEWEST, _MOST = 4, 16  # parts
_FEW, _MORE = 4, 32  # times the bytes of the fewest parts, and of more, have to fit the operands'


@dataclass(frozen=True)
class SplitSums:
    """A sum of outer products over many terms becomes the sum of a few sums, whose number does not depend on that
    of the threads: results are the same bits on any number of them.

    The gradient of a small filter over large images has few elements, so that there is little to share out but
    the terms. The parts lie in memory in the order in which they are computed. Where operands pass a staging memory,
    a sum is split if that takes less time than to bring all terms of an operand to every core.

    Before:
        func v1 f {
          arg x: f32[16384,48] input
          arg dy: f32[16384,8] input
          op dw: f32[8,48] sum accumulate f32 {
            piece k<8, c<48 reduce n<16384 at k, c = mul(dy[n, k], x[n, c])
          }
          return dw
        }

    After:
        func v1 f {
          arg x: f32[16384,48] input
          arg dy: f32[16384,8] input
          op dw_parts: f32[16,8,48] sum accumulate f32 {
            piece n_t<16, k<8, c<48 reduce n<1024 at n_t, k, c = mul(dy[n + n_t*1024, k], x[n + n_t*1024, c])
          }
          op dw: f32[8,48] sum accumulate f32 {
            piece k<8, c<48 reduce n_t<16 at k, c = dw_parts[n_t, k, c]
          }
          return dw
        }
    """

    staged: bool = True  # on machines with a staging memory as well

    name: ClassVar[str] = "split-sums"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """The function with every long sum split; the same function if there is none."""
        machine, table = context.machine, ir.tensors()
        ops: list[Op] = []
        for op in ir.ops:
            c = classify_contraction(op, ir)
            count = self._count(op, c, table, machine) if c is not None else 0
            if c is None or not count:
                ops.append(op)
                continue
            operand = table[c.a.tensor].dtype
            c = c if machine.feeds(operand) else oriented(c, table, machine, operand)
            column = nearest(c.b, pure(c.b, c.n, c), table)
            ops += _split(op, c, column, count, fresh(f"{op.name}_parts", table))
        return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(ops))

    def _count(self, op: Op, c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> int:
        """Parts of a sum; 0: it stays whole."""
        operand = tensors[c.a.tensor].dtype
        if operand not in machine.cube_shape or not sums_outer_products(c, tensors):
            return 0
        if op.prepare or op.fill is not None or c.batch:
            return 0
        if stages(c, tensors, machine):
            return staged_parts(c, tensors, machine) if self.staged else 0
        depth, cut = machine.cube_shape[operand][2], c.k[0]
        whole = len(c.k) == 1 if machine.feeds(operand) else pairable(c, depth, tensors) is cut
        return _parts(c, depth if whole else 1, _room(op, c, tensors))


def _room(op: Op, c: Contraction, tensors: Mapping[str, Tensor]) -> int:
    """How many parts lie in memory that is small beside the operands'."""
    out = op.outputs[0]
    part = out.size * (op.accumulate or out.dtype.compute).bytes
    operands = sum(tensors[r.tensor].size * tensors[r.tensor].dtype.bytes for r in (c.a, c.b))
    few = _FEWEST if part * _FEWEST * _FEW <= operands else 0
    return max(few, operands // (_MORE * part))


def _parts(c: Contraction, unit: int, room: int) -> int:
    """How many, of whole groups of ``unit`` along the slowest dim; 0: the sum stays whole."""
    slowest = c.k[0].extent
    most = min(_MOST, room, prod(d.extent for d in c.k) // _TERMS)
    count = max((n for n in range(1, most + 1) if slowest % (n * unit) == 0), default=1)
    return count if count >= _FEWEST else 0


def _split(op: Op, c: Contraction, column: Dim, count: int, name: str) -> list[Op]:
    (piece,), out, cut = op.pieces, op.outputs[0], c.k[0]
    part = Dim(fresh(f"{cut.name}_t", piece.extents), count)
    rest = Dim(cut.name, cut.extent // count)
    inside = Affine.var(rest.name) if rest.extent > 1 else Affine()
    place: dict[str, Affine | int] = {cut.name: Affine.var(part.name, rest.extent) + inside}

    def moved(node: Expr) -> Expr:
        if not isinstance(node, Read):
            return node
        return replace(node, index=tuple(f.substitute(place) for f in node.index))

    dims = (part, *piece.dims)
    dtype = op.accumulate or out.dtype.compute
    index = tuple(Affine.var(d.name) for d in dims)
    parts = Tensor(name, dtype, tuple(d.extent for d in dims), _order(dims, op, column))
    reduce = tuple(rest if d is cut else d for d in piece.reduce if d is not cut or rest.extent > 1)
    first = Op(
        (parts,),
        (Piece(dims, index, rewrite(piece.body, moved), reduce),),
        "sum",
        accumulate=dtype,
        line=op.line,
    )
    return [first, replace(op, pieces=(replace(piece, body=Read(name, index), reduce=(part,)),))]


def _order(dims: tuple[Dim, ...], op: Op, column: Dim) -> tuple[int, ...] | None:
    """The parts' axes in memory: as in the result, but that vectors are contiguous."""
    (piece,), out = op.pieces, op.outputs[0]
    rank = {axis: i for i, axis in enumerate(out.memory_order)}

    def place(axis: int) -> int:
        name = dims[axis].name
        return min(rank[a] for a, f in enumerate(piece.index) if f.coefficient(name))

    inner = sorted(range(1, len(dims)), key=lambda axis: (dims[axis] is column, place(axis)))
    order = (0, *inner)
    return order if order != tuple(range(len(dims))) else None
