"""What a listing's instruction costs, by the formula that the scheduler uses."""

from __future__ import annotations

from collections.abc import Iterable

from opc.machine.model import Machine
from opc.npu.expand import Static
from opc.npu.listing import Instruction, Region
from opc.npu.mnemonics import COPY, opcode_of
from opc.program.cost import Cost, Shape, Stream, cost_of


def class_of(i: Instruction, machine: Machine) -> str:
    """The instruction's class; the direction of a copy follows from the machine's routes."""
    opcode = opcode_of(i.mnemonic) or ""
    if opcode != COPY:
        return opcode.split(".")[0]
    source, target = i.sources[0].space, i.dst[0].space
    return "copy_out" if machine.route("copy_out", source, target) is not None else "copy_in"


def shape_of(i: Instruction, machine: Machine) -> Shape:
    """All that the instruction's cost depends on."""
    opcode = opcode_of(i.mnemonic) or ""
    return Shape(
        class_of(i, machine),
        opcode.split(".")[-1],
        i.extents,
        tuple(map(_stream, i.dst)),
        tuple(map(_stream, i.sources)),
        i.window,
    )


def _stream(r: Region) -> Stream:
    return Stream(r.space, r.dtype, r.strides)


def costs_of(statics: Iterable[Static], machine: Machine) -> tuple[list[float], list[float]]:
    """Occupancies and latencies of static instructions; equal shapes are computed once."""
    known: dict[Shape, Cost] = {}
    occupancy, latency = [], []
    for s in statics:
        if s.instruction.flag is not None:
            occupancy.append(machine.sync_cycles)
            latency.append(machine.sync_cycles)
            continue
        shape = shape_of(s.instruction, machine)
        cost = known.get(shape)
        if cost is None:
            cost = known[shape] = cost_of(shape, machine)
        occupancy.append(cost.occupancy)
        latency.append(cost.latency)
    return occupancy, latency
