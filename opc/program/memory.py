"""Sizes of buffers in a machine's spaces: what one slot takes, and in which unit offsets count."""

from __future__ import annotations

from math import prod

from opc.machine.model import Machine
from opc.program.ir import Buffer, Program

BLOB_ALIGN = 64  # packed and workspace: a cache line, and the widest vector


def round_up(value: int, step: int) -> int:
    """The least multiple of ``step`` that is at least ``value``."""
    return -(-value // step) * step


def offset_unit(machine: Machine, buffer: Buffer) -> int:
    """Bytes that one unit of an offset stands for: 1, or one register or tile where not addressable."""
    space = machine.spaces[buffer.space]
    if buffer.kind != "local" or space.addressable:
        return 1
    return space.align if space.align > 1 else machine.vector_bytes


def slot_size(machine: Machine, buffer: Buffer) -> int:
    """What one slot takes, in offset units: matrix spaces round the last two axes up to their fractal,
    then everything rounds up to the space's alignment (64 bytes in blobs).
    """
    space = machine.spaces[buffer.space]
    if buffer.kind != "local":
        return round_up(buffer.slot_bytes, BLOB_ALIGN)
    shape = list(buffer.shape)
    if space.fractal is not None:
        for axis, block in zip((-2, -1), space.fractal, strict=True):
            if len(shape) >= -axis:
                shape[axis] = round_up(shape[axis], block)
    size = prod(shape) * buffer.dtype.bytes
    unit = offset_unit(machine, buffer)
    return -(-size // unit) if unit > 1 else round_up(size, space.align)


def capacity(machine: Machine, space: str) -> int:
    """Capacity of a local space in offset units; 0 means unlimited."""
    s = machine.spaces[space]
    return s.capacity if s.addressable else s.capacity // (s.align if s.align > 1 else machine.vector_bytes)


def space_bytes(program: Program, machine: Machine, space: str) -> int:
    """Bytes of a local space (per core) that the planned program uses; for CPU scratch, what each
    thread needs.
    """
    ends = [
        (offset + slot_size(machine, b)) * offset_unit(machine, b)
        for b in program.buffers
        if b.kind == "local" and b.space == space
        for offset in b.offsets
    ]
    return max(ends, default=0)


def may_spill(machine: Machine, space: str) -> bool:
    """Whether exceeding the space costs time instead of failing: vector registers, which LLVM spills."""
    return not machine.spaces[space].addressable and machine.roles.get("vector") == space


def pressure(program: Program, machine: Machine) -> dict[str, tuple[int, int]]:
    """Per local space with a capacity: bytes a planned program uses, and the capacity."""
    spaces = sorted({b.space for b in program.buffers if b.kind == "local"})
    limited = [s for s in spaces if machine.spaces[s].capacity]
    return {s: (space_bytes(program, machine, s), machine.spaces[s].capacity) for s in limited}
