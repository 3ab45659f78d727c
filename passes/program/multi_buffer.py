"""Slots for local buffers that pass data from one pipe to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Access, Buffer, Loop, Module, Program, instructions, map_programs
from opc.program.liveness import liveness, phases
from opc.program.memory import capacity, slot_size
from opc.program.pipes import pipe_of, route_of
from opc.program.rewrite import map_accesses, map_instrs


@dataclass(frozen=True)
class MultiBuffer:
    """Give local buffers several slots, so that one pipe fills the next while another reads this one.

    A buffer qualifies when two pipes touch it, or one that overlaps its own instructions, and every iteration of a
    loop around it writes it before reading it: its value starts a new life there, so consecutive lives may use
    different slots. The slot
    is the number of that life, linearised over the sequential loops around the whole life (for an
    accumulator these exclude the loops it sums over). Machines without flags keep one slot: their
    program order is the order of execution. So do spaces without addresses.

    Policy where capacity is short: everything that one phase (a top-level parallel loop, say) uses must fit
    side by side, without reuse, since reused bytes would order again what slots set free. Buffers whose
    copies and drains take the most cycles in total come first; a buffer gets the most slots that fit.

    Before:
        program v1 twice machine ascend910 {
          buffer x: f16[4,64]@gm input
          buffer y: f16[4,64]@gm output
          buffer t: f16[64]@ub local
          loop i < 4 {
            copy_in.copy t[j] = x[i, j] for j<64
            vector.mul t[j] = t[j], 2.0 for j<64
            copy_out.copy y[i, j] = t[j] for j<64
          }
        }

    After:
        program v1 twice machine ascend910 {
          buffer x: f16[4,64]@gm input
          buffer y: f16[4,64]@gm output
          buffer t: f16[64]@ub local slots 2
          loop i < 4 {
            copy_in.copy t{i}[j] = x[i, j] for j<64
            vector.mul t{i}[j] = t{i}[j], 2.0 for j<64
            copy_out.copy y[i, j] = t{i}[j] for j<64
          }
        }
    """

    max_slots: int = 2
    name: ClassVar[str] = "multi-buffer"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        machine = context.machine
        if machine.sync == "none" or self.max_slots < 2:
            return ir
        return map_programs(ir, lambda program: self.rewrite(program, machine))

    def rewrite(self, ir: Program, machine: Machine) -> Program:
        forms = lives(ir, machine)
        slots = self.choose(ir, machine, forms)
        if not slots:
            return ir

        def access(a: Access) -> Access:
            return replace(a, slot=forms[a.buffer]) if a.buffer in slots else a

        buffers = tuple(replace(b, slots=slots.get(b.name, b.slots)) for b in ir.buffers)
        return replace(ir, buffers=buffers, body=map_instrs(ir.body, lambda i: map_accesses(i, access)))

    def choose(self, program: Program, machine: Machine, forms: Mapping[str, Affine]) -> dict[str, int]:
        """Slots per buffer, where more than one fits."""
        table = program.table()
        used = phases(program)
        slots = {b.name: b.slots for b in program.buffers}

        def fits(space: str) -> bool:
            limit = capacity(machine, space)
            size = {
                b.name: slot_size(machine, b) * slots[b.name]
                for b in program.buffers
                if b.space == space and b.kind == "local"
            }
            needs = (sum(size[name] for name in phase & size.keys()) for phase in used)
            return limit == 0 or max(needs) <= limit

        traffic = _traffic(program, machine)
        chosen: dict[str, int] = {}
        for name in sorted(forms, key=lambda n: (-traffic.get(n, 0.0), n)):
            for count in range(self.max_slots, 1, -1):
                slots[name] = count
                if fits(table[name].space):
                    chosen[name] = count
                    break
                slots[name] = 1
        return chosen


def lives(program: Program, machine: Machine) -> dict[str, Affine]:
    """Buffers that would use several slots, and the number of the life that an iteration belongs to."""
    homes = liveness(program).homes
    forms: dict[str, Affine] = {}
    for b in _candidates(program, machine):
        loops = [loop for loop in homes[b.name] if not loop.parallel]
        if prod(loop.extent for loop in loops) > 1:
            forms[b.name] = _life(loops)
    return forms


def _candidates(program: Program, machine: Machine) -> list[Buffer]:
    """Local single-slot buffers in addressable spaces that two pipes touch, or one that does not keep its order."""
    table = program.table()
    pipes: dict[str, set[str]] = {}
    for instr, _ in instructions(program.body):
        for a in (*instr.dst, *instr.sources):
            pipes.setdefault(a.buffer, set()).add(pipe_of(instr, table, machine))
    return [
        b
        for b in program.buffers
        if b.kind == "local"
        and b.slots == 1
        and not b.offsets
        and machine.spaces[b.space].addressable
        and (len(pipes.get(b.name, ())) > 1 or pipes.get(b.name, set()) & machine.unordered_pipes)
    ]


def _life(loops: list[Loop]) -> Affine:
    """The number of the iteration over nested loops."""
    form = Affine()
    for loop in loops:
        form = form * loop.extent + Affine.var(loop.var)
    return form


def _traffic(program: Program, machine: Machine) -> dict[str, float]:
    """Cycles that routes other than vector and cube spend on each buffer."""
    table = program.table()
    cycles: dict[str, float] = {}
    for instr, loops in instructions(program.body):
        route = route_of(instr, table, machine)
        if route is None or instr.opcode_class in ("vector", "cube"):
            continue
        moved = prod(e for _, e in instr.dims) * prod(loop.extent for loop in loops)
        for a in (*instr.dst, *instr.sources):
            spent = moved * table[a.buffer].dtype.bytes / route.bandwidth
            cycles[a.buffer] = cycles.get(a.buffer, 0.0) + spent
    return cycles
