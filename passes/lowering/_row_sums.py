"""Sums over the rows of a nest, made by the cube: a block of rows goes to the staging memory, from beside the vector
unit if that made it and from memory otherwise, and from there into both operand memories.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.ir import Access
from opc.tensor.ir import Dim, Op, Read, Tensor, reads
from passes.lowering._axes import Axis
from passes.lowering._cube_sums import CubeSums, summed
from passes.lowering._plan import Shape
from passes.lowering._together import Together
from passes.tensor._cube_sums import factors, is_summed

_B, _J = Affine.var("b_"), Affine.var("j_")
_SLOTS = 2  # of each operand


def row_sums(
    rows: Together, shared: Collection[str], columns: str, tensors: Mapping[str, Tensor], machine: Machine
) -> tuple[Op, ...]:
    """Of ops that go over rows together those whose terms the cube can add up, all in one type. ``columns``: the
    shared dim that memory is walked along.
    """
    if columns not in shared or not _hands_over(machine):
        return ()
    read = {r.tensor for op in rows.ops for r in reads(op)}
    walked = {d.name for d in rows.walked}
    found: list[Op] = []
    for op in rows.ops:
        used = {t.name for t in op.outputs} & read
        if used or not is_summed(op, tensors, machine) or not _is_block(op, walked, columns):
            continue
        every = {r.tensor: r for o in (*found, op) for r in factors(o)}
        types = {tensors[name].dtype for name in every}
        alike = all(every[r.tensor] == r for o in (*found, op) for r in factors(o))
        side = max(machine.cube_shape[next(iter(types))][:2])
        if len(types) == 1 and alike and op.pieces[0].extents[columns] >= side:
            found.append(op)
    return tuple(found)


def _hands_over(machine: Machine) -> bool:
    """Whether blocks reach the staging memory from memory and from beside the vector unit, on one core."""
    if "stage" not in machine.roles or not machine.role("vector").addressable:
        return False
    stage = machine.roles["stage"]
    return all(
        machine.route(way, machine.roles[role], stage) is not None
        for way, role in (("copy_out", "vector"), ("copy_in", "memory"))
    )


def _is_block(op: Op, walked: set[str], columns: str) -> bool:
    """Whether every factor has a value of its own for each row and column."""
    apart = [{n for f in r.index for n in f.names} for r in factors(op)]
    return all(walked | {columns} <= names for names in apart) and all(r.fill is None for r in factors(op))


def operand_bytes(
    ops: tuple[Op, ...], rows: int, columns: int, machine: Machine, tensors: Mapping[str, Tensor]
) -> int:
    """Of a block in the operand memory where most factors of sums meet, its slots counted."""
    made = summed(ops)
    assert made is not None
    dtype = tensors[factors(ops[0])[0].tensor].dtype
    m0, n0, k0 = machine.cube_shape[dtype]
    side = max(m0, n0)
    return (
        _SLOTS * max(made.left, made.right) * -(-rows // k0) * k0 * -(-columns // side) * side * dtype.bytes
    )


@dataclass
class RowSums(CubeSums):
    """``shape.m`` are the rows, ``shape.n`` is the one dim of columns."""

    def add_block(self, values: Mapping[str, Access], sizes: Mapping[str, int]) -> None:
        """Add the rows of the block at hand. ``values``: where the factors lie, over rows and columns of these
        ``sizes``.
        """
        rows = [(d.name, sizes[d.name]) for d in self.shape.m]
        columns = sizes[self._dim.name]
        staged = {name: self._block(rows, columns, values[name]) for name in sorted(self.used)}
        self.multiply(staged, prod(n for _, n in rows), columns)

    def _block(self, rows: list[tuple[str, int]], columns: int, source: Access) -> str:
        """A block in the staging memory, its columns counted in blocks of the cube's."""
        shape = [prod(n for _, n in rows), -(-columns // self.side), self.side]
        name = self.emit.local("summed", self._operand, shape, "stage")
        space = self.emit.buffers[source.buffer].space
        way = "copy_out.copy" if space == "vector" else "copy_in.copy"
        row = Axis("m_", tuple(rows)).flat()
        for start, width, count in self._segments(columns):
            here = {self._dim.name: _B * self.side + _J + start}
            moved = Access(source.buffer, tuple(f.substitute(here) for f in source.index))
            target = Access(name, (row, _B + start // self.side, _J))
            self.emit.emit(way, [*rows, ("b_", count), ("j_", width)], [target], [moved])
        return name


def shape_of(
    ops: tuple[Op, ...], rows: tuple[Dim, ...], columns: Dim, tensors: Mapping[str, Tensor]
) -> Shape:
    """What sums need to know of a nest."""
    dtype, total = tensors[factors(ops[0])[0].tensor].dtype, ops[0].outputs[0].dtype
    return Shape((), rows, (columns,), (), dtype, total, {}, 1, 0, {})


def found_reads(ops: tuple[Op, ...]) -> dict[str, tuple[Op, Read]]:
    """By tensor the read of it, and an op that has it."""
    return {r.tensor: (op, r) for op in ops for r in factors(op)}
