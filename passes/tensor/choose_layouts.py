"""Layouts: pack the column operand of every contraction the way the machine's cube reads it, and move
every pack of parameters into ``prepare``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from typing import ClassVar

from opc.affine import Affine
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.tensor.ir import Call, Dim, Expr, Function, Op, Piece, Read, Tensor, reads, rewrite
from passes.tensor._algebra import parameters
from passes.tensor._contraction import Contraction, classify_contraction


@dataclass(frozen=True)
class ChooseLayouts:
    """Pack operand B of contractions and copy parameters that run reads into the packed blob.

    B becomes ``[batch, n outer, k, n inner]``: columns contiguous, in blocks of the cube's width where
    columns are vector lanes. A B that is a parameter is packed in prepare; another one only if its
    columns are not contiguous already. A ragged last block is zero-filled and guarded.

    Before:
        func v1 f {
          arg x: f32[8,4] input
          arg w: f32[40,4] param
          op y: f32[8,40] sum accumulate f32 {
            piece m<8, n<40 reduce k<4 at m, n = mul(x[m, k], w[n, k])
          }
          return y
        }

    After:
        func v1 f {
          arg x: f32[8,4] input
          arg w: f32[40,4] param
          op w_packed: f32[3,4,16] prepare {
            piece n_b<3, k<4, n_i<16 at n_b, k, n_i = w[n_b*16 + n_i, k] else 0
          }
          op y: f32[8,40] sum accumulate f32 {
            piece m<8, n_b<3, n_i<16 reduce k<4 at m, n_b*16 + n_i guard -n_b*16 - n_i + 39 = mul(x[m, k], w_packed[n_b, k, n_i])
          }
          return y
        }
    """

    name: ClassVar[str] = "choose-layouts"
    level: ClassVar[str] = "tensor"

    def run(self, function: Function, context: Context) -> Function:
        """The function with packs inserted before their first reader."""
        params = parameters(function)
        taken = set(function.tensors())
        ops: list[Op] = []
        for op in function.ops:
            if op.prepare:
                ops.append(op)
                continue
            ops += _pack_contraction(op, function, params, taken, context.machine)
        ops = _pack_parameters(ops, function, taken)
        return function if tuple(ops) == function.ops else replace(function, ops=tuple(ops))


def _pack_contraction(op: Op, function: Function, params: frozenset[str], taken: set[str], machine: Machine) -> list[Op]:
    c = classify_contraction(op, function)
    if c is None or not cube_worthy(c):
        return [op]
    table = function.tensors()
    tensor = table[c.b.tensor]
    operand = table[c.a.tensor].dtype
    lanes = not machine.has_role("operand_b")
    fixed = c.b.tensor in params
    if operand not in machine.cube_shape or not (fixed or (lanes and _needs_pack(c, tensor))):
        return [op]
    width = _width(c, machine.cube_shape[operand][1]) if lanes else c.n[-1].extent
    return _rewrite(op, c, tensor, width, fixed, _unique(f"{tensor.name}_packed", taken))


def cube_worthy(c: Contraction) -> bool:
    """Whether the cube takes it: columns of its own, nothing skipped; rows may be a single one."""
    shared = any(any(f.coefficient(d.name) for f in c.a.index) and any(f.coefficient(d.name) for f in c.b.index) for d in c.k)
    return bool(c.n) and shared and not c.broadcast and not c.guarded and all(f.terms or True for f in c.a.index)


def _needs_pack(c: Contraction, tensor: Tensor) -> bool:
    """Columns that are not contiguous, or padded reads, cannot be loaded as vectors in place."""
    stride, step = 1, 0
    for axis in reversed(tensor.memory_order):
        step += c.b.index[axis].coefficient(c.n[-1].name) * stride
        stride *= tensor.shape[axis]
    return step != 1 or c.b.fill is not None


def _width(c: Contraction, block: int) -> int:
    """Columns per packed block; wider when there are too few rows to keep the multipliers busy."""
    rows = prod(d.extent for d in c.m)
    return min(c.n[-1].extent, block * (4 if rows < 4 else 1))


def _rewrite(op: Op, c: Contraction, tensor: Tensor, width: int, fixed: bool, name: str) -> list[Op]:
    column = c.n[-1]
    blocks = ceil(column.extent / width)
    inner = column if blocks == 1 else Dim(f"{column.name}_i", width)
    outer = Dim(f"{column.name}_b", blocks)
    whole: dict[str, Affine | int] = {}
    guards: tuple[Affine, ...] = ()
    if blocks > 1:
        whole[column.name] = Affine.var(outer.name, width) + Affine.var(inner.name)
        ragged = blocks * width != column.extent
        guards = (Affine.of({outer.name: -width, inner.name: -1}, column.extent - 1),) if ragged else ()
    used = [d for d in c.k if any(f.coefficient(d.name) for f in c.b.index)]
    mixed = {k.name for k in c.k for f in c.a.index if f.coefficient(k.name) and any(f.coefficient(m.name) for m in c.m)}
    order = sorted(used, key=lambda d: d.name not in mixed)
    dims = (*c.batch, *c.n[:-1], *((outer,) if blocks > 1 else ()), *order, inner)
    source = Read(c.b.tensor, tuple(f.substitute(whole) for f in c.b.index), 0 if guards else c.b.fill)
    index = tuple(Affine.var(d.name) for d in dims)
    packed = Tensor(name, tensor.dtype, tuple(d.extent for d in dims))
    pack = Op((packed,), (Piece(dims, index, source),), prepare=fixed, line=op.line)
    piece = op.pieces[0]
    split = tuple(x for d in piece.dims for x in ((outer, inner) if d == column and blocks > 1 else (d,)))
    body: Expr = Call("mul", (c.a, Read(name, index)))
    new = replace(
        piece,
        dims=split,
        index=tuple(f.substitute(whole) for f in piece.index),
        guards=(*(g.substitute(whole) for g in piece.guards), *guards),
        body=body,
    )
    return [pack, replace(op, pieces=(new,))]


def _pack_parameters(ops: list[Op], function: Function, taken: set[str]) -> list[Op]:
    """Copy parameters that run-time ops still read: run sees the packed blob only."""
    table = {a.tensor.name: a.tensor for a in function.args if a.kind == "param"}
    direct = [r.tensor for op in ops if not op.prepare for r in reads(op) if r.tensor in table]
    names: dict[str, str] = {}
    copies: list[Op] = []
    for name in dict.fromkeys(direct):
        tensor = table[name]
        names[name] = _unique(f"{name}_packed", taken)
        dims = tuple(Dim(f"i{axis}", extent) for axis, extent in enumerate(tensor.shape))
        index = tuple(Affine.var(d.name) for d in dims)
        copy = Tensor(names[name], tensor.dtype, tensor.shape, tensor.order)
        copies.append(Op((copy,), (Piece(dims, index, Read(name, index)),), prepare=True))

    def rename(node: Expr) -> Expr:
        return replace(node, tensor=names[node.tensor]) if isinstance(node, Read) and node.tensor in names else node

    def redirect(op: Op) -> Op:
        if op.prepare or not any(r.tensor in names for r in reads(op)):
            return op
        return replace(op, pieces=tuple(replace(p, body=rewrite(p.body, rename)) for p in op.pieces))

    return [*copies, *map(redirect, ops)]


def _unique(name: str, taken: set[str]) -> str:
    n, found = 1, name
    while found in taken:
        found, n = f"{name}_{n}", n + 1
    taken.add(found)
    return found
