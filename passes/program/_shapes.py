"""Registers that buffers of different shapes share: they have to be set up again in between."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from opc.machine.model import Machine
from opc.program.ir import Buffer, Module, Program, instructions, map_programs
from opc.program.memory import slot_size
from opc.program.pipes import pipe_of


def mix(ir: Module | Program, machine: Machine, rewrite: Callable[[Program], Program]) -> Module | Program:
    """Rewrite the programs whose sums may be mixed with other work: the machine has one stream of instructions
    and a window to reorder them in, and no register changes its shape.
    """
    if not machine.window:
        return ir
    return map_programs(
        ir, lambda p: rewrite(p) if multiplies(p, machine) and not reshaped(p, machine) else p
    )


def multiplies(program: Program, machine: Machine) -> bool:
    """Whether the cube's own pipe has work: where it reads memory itself, it is the vector pipe's."""
    table = program.table()
    return any(
        i.opcode_class == "cube" and pipe_of(i, table, machine) == machine.cube_pipe
        for i, _ in instructions(program.body)
    )


def reshaped(program: Program, machine: Machine) -> bool:
    """Whether a matrix register holds rows of one length or number here and of another there.

    Setting registers up clears them, so the sums of such programs may not be mixed: their order stays.
    """
    matrices = [
        b
        for b in program.buffers
        if b.kind == "local"
        and b.offsets
        and not _addressable(b, machine)
        and machine.spaces[b.space].fractal
    ]
    return any(rows_of(a) != rows_of(b) and _share(a, b, machine) for a, b in combinations(matrices, 2))


def _addressable(b: Buffer, machine: Machine) -> bool:
    return machine.spaces[b.space].addressable


def rows_of(b: Buffer) -> tuple[int, int]:
    """Rows, and bytes in each of them."""
    rows = b.shape[0] if b.shape else 1
    return rows, b.slot_bytes // rows


def _share(a: Buffer, b: Buffer, machine: Machine) -> bool:
    return any(
        x < y + slot_size(machine, b) and y < x + slot_size(machine, a) for x in a.offsets for y in b.offsets
    )
