"""Which route and which in-order pipe of a machine runs an instruction."""

from __future__ import annotations

from collections.abc import Mapping

from opc.machine.model import Machine, Route
from opc.program.ir import Buffer, Instr


def route_of(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> Route | None:
    """The route of a copy, cube, scale or vector instruction; None for sync or if the machine has none.

    The first source decides; an instruction without one (iota, a broadcast literal) stays in its
    destination's space.
    """
    if instr.opcode_class == "sync" or not instr.dst:
        return None
    target = buffers[instr.dst[0].buffer].space
    source = buffers[instr.sources[0].buffer].space if instr.sources else target
    return machine.route(instr.opcode_class, source, target)


def pipe_of(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> str:
    """The pipe that runs the instruction.

    A set_flag runs on its source pipe, a wait_flag on its destination pipe. Without a route the
    answer is "": ``verify`` has reported it.
    """
    if instr.flag is not None:
        return instr.flag[1] if instr.op == "wait_flag" else instr.flag[0]
    if instr.op == "prefetch":
        return machine.prefetch_pipe
    route = route_of(instr, buffers, machine)
    return route.pipe if route is not None else ""
