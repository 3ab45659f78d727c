"""Contractions that sum outer products: recognised by how their operands lie in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.tensor.ir import Dim, Read, Tensor
from passes.tensor._contraction import Contraction, uses


def sums_outer_products(c: Contraction, tensors: Mapping[str, Tensor]) -> bool:
    """Whether both operands have vectors along dims of their own, and the sum walks slower axes: a weight gradient.

    Neither operand may be packed before the run. Where rows do not lie so, windows of an operand that are shorter
    than what the sum walks along their axis decide: packing would copy every element once per window position.
    """
    if c.fixed or not c.is_cube:
        return False
    rows, columns = pure(c.a, c.m, c), pure(c.b, c.n, c)
    if not rows or not columns:
        return False
    a, summed = tensors[c.a.tensor], [d for d in c.k if uses(c.a, d)]
    across = min(apart(a, c.a, d.name) for d in rows) < min(apart(a, c.a, d.name) for d in summed)
    return across or _windowed(c.b, c.n, c) or _windowed(c.a, c.m, c)


def _windowed(read: Read, own: Sequence[Dim], c: Contraction) -> bool:
    """Whether dims that only this operand has share axes with summed ones, and each is shorter than those."""
    extents = {d.name: d.extent for d in (*own, *c.k)}
    names, summed = {d.name for d in own}, {d.name for d in c.k}
    mixed = [f for f in read.index if f.names & names and f.names & summed]
    return bool(mixed) and all(
        max(extents[n] for n in f.names & names) < max(extents[n] for n in f.names & summed) for f in mixed
    )


def pure(read: Read, dims: Sequence[Dim], c: Contraction) -> tuple[Dim, ...]:
    """Those of the dims that share no axis of a read with another dim but the batch's."""
    batch = {d.name for d in c.batch}
    return tuple(
        d for d in dims if all(f.names <= {d.name, *batch} for f in read.index if f.coefficient(d.name))
    )


def apart(tensor: Tensor, read: Read, name: str) -> int:
    """Bytes between two elements that a read touches for neighbours along a dim."""
    step, total = tensor.dtype.bytes, 0
    for axis in reversed(tensor.memory_order):
        total += read.index[axis].coefficient(name) * step
        step *= tensor.shape[axis]
    return abs(total)


def oriented(c: Contraction, tensors: Mapping[str, Tensor], machine: Machine, operand: DType) -> Contraction:
    """The contraction with its operands exchanged if the other one's vectors are clearly fuller."""
    width = machine.cube_shape[operand][1]

    def full(read: Read, dims: Sequence[Dim]) -> float:
        column = nearest(read, pure(read, dims, c), tensors)
        return column.extent / (ceil(column.extent / width) * width)

    if full(c.a, c.m) <= 1.1 * full(c.b, c.n):
        return c
    return replace(c, a=c.b, b=c.a, m=c.n, n=c.m, swapped=not c.swapped)


def nearest(read: Read, dims: Sequence[Dim], tensors: Mapping[str, Tensor]) -> Dim:
    """The dim whose neighbours lie next to each other, or closest."""
    return min(dims, key=lambda d: apart(tensors[read.tensor], read, d.name))


def pairable(c: Contraction, depth: int, tensors: Mapping[str, Tensor]) -> Dim | None:
    """The summed dim that can be cut into groups of ``depth`` neighbours, which a cube multiplies at once: one that has
    an axis of each operand to itself, without remainder or up to its end; rather without, and neighbours close by.
    """
    both = [d for d in c.k if d.extent > 1 and all(d in pure(r, c.k, c) for r in (c.a, c.b))]
    found = [d for d in both if not d.extent % depth or all(_ends(r, d, tensors) for r in (c.a, c.b))]
    if depth < 2 or not found or tensors[c.a.tensor].dtype is not tensors[c.b.tensor].dtype:
        return None
    return min(found, key=lambda d: (d.extent % depth, apart(tensors[c.b.tensor], c.b, d.name)))


def _ends(read: Read, d: Dim, tensors: Mapping[str, Tensor]) -> bool:
    """Whether nothing of the tensor lies beyond what the dim walks over."""
    shape = tensors[read.tensor].shape
    return any(f == Affine.var(d.name) + (n - d.extent) for f, n in zip(read.index, shape, strict=True))


def group_of(c: Contraction, depth: int, tensors: Mapping[str, Tensor]) -> Dim | None:
    """A summed dim of ``depth`` neighbours, over whole groups of which the others step in both operands."""
    if depth < 2 or len(c.k) < 2 or tensors[c.a.tensor].dtype is not tensors[c.b.tensor].dtype:
        return None
    return next((d for d in c.k if d.extent == depth and all(_grouped(r, d, c) for r in (c.a, c.b))), None)


def _grouped(read: Read, d: Dim, c: Contraction) -> bool:
    batch, summed = {b.name for b in c.batch}, {k.name for k in c.k}
    forms = [f for f in read.index if f.coefficient(d.name)]
    return len(forms) == 1 and all(
        n in batch or n == d.name or (n in summed and step % (d.extent * forms[0].coefficient(d.name)) == 0)
        for n, step in forms[0].terms
    )
