"""Work and traffic of a core, and the rates that bound them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from opc.machine.model import Machine
from opc.npu.engine import WORK, Plan
from opc.npu.shapes import class_of
from opc.npu.timing import Timeline


@dataclass(frozen=True, slots=True)
class Roofline:
    """One core: operations (2 for each product), bytes to and from global memory, and what is possible a cycle."""

    operations: int
    bytes: int
    cycles: float
    cube_peak: float  # operations a cycle, of the matrix unit on the element type that is multiplied
    vector_peak: float  # operations a cycle, of the vector unit in f32
    bandwidth: float  # bytes a cycle, of the fastest route from global memory

    @property
    def intensity(self) -> float:
        """Operations for each byte of global memory."""
        return self.operations / self.bytes if self.bytes else 0.0

    @property
    def performance(self) -> float:
        """Operations a cycle."""
        return self.operations / self.cycles if self.cycles else 0.0


def roofline(timeline: Timeline) -> Roofline:
    """Operations are those of the cube where it is used, else of the vector unit."""
    machine = timeline.machine
    memory = machine.roles["memory"]
    products = sums = moved = 0
    peak = 0.0
    for phase in timeline.phases:
        for j, s in enumerate(phase.plan.trace.statics):
            if phase.plan.kinds[j] != WORK:
                continue
            work = prod(s.instruction.extents) * s.count
            kind = class_of(s.instruction, machine)
            if kind == "cube":
                products += work
                peak = max(peak, _cube_peak(phase.plan, j, machine))
            elif kind in ("vector", "scale"):
                sums += work
            moved += sum(
                work * r.dtype.bytes
                for r in (*s.instruction.dst, *s.instruction.sources)
                if r.space == memory
            )
    fastest = max((r.bandwidth * r.units for r in machine.routes if r.source == memory), default=0.0)
    lanes = machine.vector_units * machine.vector_bytes / 4
    return Roofline(2 * products or sums, moved, timeline.cycles, peak, lanes, fastest)


def _cube_peak(p: Plan, j: int, machine: Machine) -> float:
    left = p.trace.statics[j].instruction.sources[0].dtype
    return 2.0 * prod(machine.cube_shape.get(left, (0, 0, 0))) / (machine.cube_block or 1.0)
