"""Layouts: pack the column operand of every contraction the way the machine's cube reads it, and move
every pack of parameters into ``prepare``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType, promote
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.tensor.ir import Call, Dim, Expr, Function, Op, Piece, Read, Tensor, reads, rewrite
from passes.tensor._algebra import parameters
from passes.tensor._contraction import Contraction, classify_contraction
from passes.tensor._outer_products import nearest, pairable, pure, sums_outer_products


@dataclass(frozen=True)
class ChooseLayouts:
    """Pack operand B of contractions and copy parameters that run reads into the packed blob.

    B becomes ``[batch, n outer, k, n inner]``: columns contiguous, in blocks of the cube's width where
    columns are vector lanes. A B that is a parameter is packed in prepare; another one only if its
    columns are not contiguous already. A ragged last block is zero-filled and guarded.

    Before:
        func v1 f {
          arg x: f32[8,4] input
          arg w: f32[48,4] param
          op y: f32[8,48] sum accumulate f32 {
            piece m<8, n<48 reduce k<4 at m, n = mul(x[m, k], w[n, k])
          }
          return y
        }

    After:
        func v1 f {
          arg x: f32[8,4] input
          arg w: f32[48,4] param
          op w_packed: f32[3,4,16] prepare {
            piece n_b<3, k<4, n_i<16 at n_b, k, n_i = w[n_b*16 + n_i, k]
          }
          op y: f32[8,48] sum accumulate f32 {
            piece m<8, n_b<3, n_i<16 reduce k<4 at m, n_b*16 + n_i = mul(x[m, k], w_packed[n_b, k, n_i])
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
            alone = [replace(op, pieces=(p,)) for p in op.pieces]
            found = [classify_contraction(part, function) for part in alone]
            # Where one piece is no product for the cube, none of them goes there.
            if any(c is None or not c.is_cube for c in found):
                ops.append(op)
                continue
            made = [
                _pack_contraction(part, c, function, params, taken, context.machine)
                for part, c in zip(alone, found, strict=True)
                if c is not None
            ]
            ops += [pack for *packs, _ in made for pack in packs]
            ops.append(replace(op, pieces=tuple(last.pieces[0] for *_, last in made)))
        ops = _pack_parameters(ops, function, taken)
        return function if tuple(ops) == function.ops else replace(function, ops=tuple(ops))


def _pack_contraction(
    op: Op, c: Contraction, function: Function, params: frozenset[str], taken: set[str], machine: Machine
) -> list[Op]:
    table = function.tensors()
    tensor = table[c.b.tensor]
    operand = table[c.a.tensor].dtype
    if tensor.dtype is not operand and not (machine.feeds(operand) and machine.feeds(tensor.dtype)):
        wider = promote(operand, tensor.dtype)  # a product of two types is one of the wider
        operand = wider if machine.feeds(operand) else wider.compute
    if operand not in machine.cube_shape:
        return [op]
    if sums_outer_products(c, table):
        if not machine.feeds(operand):  # both operands are copied near in blocks, as the sum goes on
            return [_in_groups(op, c, machine.cube_shape[operand][2], table)]
        column = nearest(c.b, pure(c.b, c.n, c), table)
        c = replace(c, n=(*(d for d in c.n if d is not column), column))
    fixed, scheme = c.b.tensor in params, _scheme(c, operand, machine)
    if op.prepare and (scheme is None or scheme.k_pack == 1):
        return [op]  # happens once: packed only where the cube takes no other form
    if not fixed and (scheme is None or not _worth_packing(c, tensor, scheme)):
        return [op]
    scheme = scheme or _Scheme(c.n[-1].extent, 1, tensor.dtype)
    return _rewrite(op, c, tensor, scheme, fixed, _unique(f"{tensor.name}_packed", taken))


def _in_groups(op: Op, c: Contraction, depth: int, tensors: dict[str, Tensor]) -> Op:
    """A summed dim cut into groups of neighbours that the cube multiplies at once, where there is one."""
    found = pairable(c, depth, tensors)
    if found is None or found.extent == depth:
        return op
    cut, (piece,) = _split(found, depth, ("p", "v")), op.pieces

    def moved(node: Expr) -> Expr:
        if not isinstance(node, Read):
            return node
        index = tuple(f.substitute({found.name: cut.form}) for f in node.index)
        return replace(node, index=index, fill=0 if cut.ragged and node.fill is None else node.fill)

    reduce = tuple(x for d in piece.reduce for x in (cut.dims if d is found else (d,)))
    return replace(op, pieces=(replace(piece, body=rewrite(piece.body, moved), reduce=reduce),))


@dataclass(frozen=True, slots=True)
class _Scheme:
    """``width``: columns per packed block. ``k_pack``: consecutive K elements kept side by side. ``k_block``:
    elements of K that one product takes; longer sums go block by block.

    ``dtype``: what the cube multiplies. Where it reads memory itself and takes term by term, narrow types are widened
    once here (and when rows are staged) instead of at every use.
    """

    width: int
    k_pack: int
    dtype: DType
    k_block: int = 0  # 0: all of them


def _scheme(c: Contraction, operand: DType, machine: Machine) -> _Scheme | None:
    """How the cube reads B straight from memory; None where a copy to an operand space rearranges it anyway."""
    _, block, depth = machine.cube_shape[operand]
    if not machine.feeds(operand):
        inner = _sum_order(c)[-1]
        if depth > 1 and inner.extent > 1 and inner.name not in _mixed(c):
            return _Scheme(_width(c, block), depth, operand)
        return _Scheme(_width(c, block), 1, operand.compute)
    if machine.route("copy_in", machine.roles["memory"], machine.roles["operand_b"]) is None:
        return None
    pack = max(1, machine.limits.get("k_pack_bytes", 1) // operand.bytes)
    # Columns in whole products, filled up with zeros: operand registers keep one shape.
    width = min(ceil(c.n[-1].extent / block) * block, machine.limits.get("block_columns", block))
    return _Scheme(width, pack, operand, depth)


def _mixed(c: Contraction) -> set[str]:
    """Summed dims that share an axis of A with rows."""
    rows = {m.name for m in c.m}
    return {k.name for k in c.k for f in c.a.index if f.coefficient(k.name) and f.names & rows}


def _sum_order(c: Contraction) -> list[Dim]:
    """Summed dims of B as a pack has them, slowest first: those inside lie next to each other in A as well."""
    mixed = _mixed(c)
    used = [d for d in c.k if any(f.coefficient(d.name) for f in c.b.index)]
    return sorted(used, key=lambda d: d.name not in mixed)


# Rows from which one copy of B costs less than streaming it with a long stride for every block of rows.
_REUSE_ROWS = 32


def _worth_packing(c: Contraction, tensor: Tensor, scheme: _Scheme) -> bool:
    """Whether a run-time B must be, or had better be, packed: paired or widened elements, padded or strided
    columns, many rows.
    """
    if scheme.k_pack > 1 or scheme.dtype is not tensor.dtype or c.b.fill is not None:
        return True
    stride, step = 1, 0
    for axis in reversed(tensor.memory_order):
        step += c.b.index[axis].coefficient(c.n[-1].name) * stride
        stride *= tensor.shape[axis]
    return step != 1 or prod(d.extent for d in c.m) >= _REUSE_ROWS


def _width(c: Contraction, block: int) -> int:
    """Columns per packed block; wider when there are too few rows to keep the multipliers busy."""
    rows = prod(d.extent for d in c.m)
    return min(c.n[-1].extent, block * (4 if rows < 4 else 1))


@dataclass(frozen=True, slots=True)
class _Split:
    """A dim split into blocks: ``form`` is the old dim over the new ones (outer first)."""

    old: Dim
    dims: tuple[Dim, ...]
    form: Affine
    ragged: bool


def _split(d: Dim, size: int, suffixes: tuple[str, str]) -> _Split:
    blocks = ceil(d.extent / size)
    if blocks == 1 and size == d.extent:
        return _Split(d, (d,), Affine.var(d.name), False)
    outer, inner = Dim(f"{d.name}_{suffixes[0]}", blocks), Dim(f"{d.name}_{suffixes[1]}", size)
    form = Affine.var(outer.name, size) + Affine.var(inner.name)
    return _Split(d, (outer, inner), form, blocks * size != d.extent)


def _groups(d: Dim, scheme: _Scheme) -> _Split:
    """The innermost summed dim in blocks of groups of ``k_pack``, as equal as possible; the last is padded."""
    if scheme.k_pack <= 1:
        return _split(d, d.extent, ("p", "v"))
    groups = ceil(d.extent / scheme.k_pack)
    blocks = ceil(groups * scheme.k_pack / scheme.k_block) if scheme.k_block else 1
    if blocks == 1:
        return _split(d, scheme.k_pack, ("p", "v"))
    size = ceil(groups / blocks)
    dims = Dim(f"{d.name}_b", blocks), Dim(f"{d.name}_p", size), Dim(f"{d.name}_v", scheme.k_pack)
    form = Affine()
    for part in dims:
        form = form * part.extent + Affine.var(part.name)
    return _Split(d, dims, form, blocks * size * scheme.k_pack != d.extent)


@dataclass(frozen=True, slots=True)
class _Halo:
    """An axis of B along which windows overlap: packed once, with all that they touch. ``form`` is the index over
    windows and sum in ``dim``, which ``source`` is over.
    """

    dim: Dim
    form: Affine
    source: Affine


def _halos(c: Contraction, pair: Dim) -> dict[int, _Halo]:
    """By axis; an axis along which pairs are made stays apart for every window position."""
    extents = {d.name: d.extent for d in (*c.n, *c.k)}
    windows, summed = {d.name for d in c.n[:-1]}, {d.name for d in c.k} - {pair.name}
    found = {}
    for axis, form in enumerate(c.b.index):
        elsewhere = {n for other, f in enumerate(c.b.index) if other != axis for n in f.names}
        mixed = form.names & windows and form.names & summed
        if not mixed or not form.names <= windows | summed or form.names & elsewhere:
            continue
        low, high = form.interval(extents)
        dim = Dim(f"h{axis}", high - low + 1)
        found[axis] = _Halo(dim, form - low, Affine.var(dim.name) + low)
    return found


def _rewrite(op: Op, c: Contraction, tensor: Tensor, scheme: _Scheme, fixed: bool, name: str) -> list[Op]:
    order = _sum_order(c)
    columns = _split(c.n[-1], scheme.width, ("b", "i"))
    pairs = _groups(order[-1], scheme)
    *k_blocks, k_groups, k_inner = pairs.dims if len(pairs.dims) > 1 else (*pairs.dims, None)
    whole: dict[str, Affine | int] = {columns.old.name: columns.form, pairs.old.name: pairs.form}
    halos = _halos(c, pairs.old)
    covered = {n for h in halos.values() for n in h.form.names}
    outside = (*c.batch, *c.n[:-1], *columns.dims[:-1], *pairs.dims[: len(k_blocks)], *order[:-1])
    kept = [d for d in outside if d.name not in covered]
    dims = (
        *kept,
        *(h.dim for h in halos.values()),
        k_groups,
        columns.dims[-1],
        *((k_inner,) if k_inner is not None else ()),
    )
    ragged = columns.ragged or pairs.ragged
    shown = [halos[axis].source if axis in halos else f for axis, f in enumerate(c.b.index)]
    source = Read(c.b.tensor, tuple(f.substitute(whole) for f in shown), 0 if ragged else c.b.fill)
    index = tuple(Affine.var(d.name) for d in dims)
    packed = Tensor(name, scheme.dtype, tuple(d.extent for d in dims))
    inside = {h.dim.name: h.form for h in halos.values()}
    place = tuple(inside.get(d.name, Affine.var(d.name)) for d in dims)
    # Beyond the end of such an axis is not nothing, but what other dims have there.
    shared = pairs.ragged and any(
        f.coefficient(pairs.old.name) and f.names != {pairs.old.name} for f in c.b.index
    )
    inner = (pairs.form * -1 + (pairs.old.extent - 1),) if shared else ()
    fill = 0 if shared else None
    pack = Op((packed,), (Piece(dims, index, source, (), inner),), fill=fill, prepare=fixed, line=op.line)
    rows = Read(c.a.tensor, tuple(f.substitute(whole) for f in c.a.index), c.a.fill)
    if pairs.ragged and rows.fill is None:
        rows = replace(rows, fill=0)  # meets the zeros that pad the packed operand
    piece = op.pieces[0]

    def spread(old: tuple[Dim, ...]) -> tuple[Dim, ...]:
        parts = {columns.old: columns.dims, pairs.old: pairs.dims}
        return tuple(x for d in old for x in parts.get(d, (d,)))

    guards = tuple(g.substitute(whole) for g in piece.guards)
    if columns.ragged:
        guards = (*guards, columns.form * -1 + (columns.old.extent - 1))
    free = spread(piece.dims)
    if c.n != tuple(d for d in piece.dims if d in c.n):
        free = (*(d for d in free if d not in columns.dims), *columns.dims)
    new = Piece(
        free,
        tuple(f.substitute(whole) for f in piece.index),
        Call("mul", (rows, Read(name, place))),
        spread(piece.reduce),
        guards,
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
        if not isinstance(node, Read) or node.tensor not in names:
            return node
        return replace(node, tensor=names[node.tensor])

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
