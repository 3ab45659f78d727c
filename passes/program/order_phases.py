"""Results whose memory can serve as workspace are written last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.liveness import phases, touched
from opc.program.loan import rooms
from opc.program.memory import slot_size
from passes.program.plan_memory import borrowed, workspace_offsets

_THREADS = 2  # orders are compared for so many; what is held on others is close to it


@dataclass(frozen=True)
class OrderPhases:
    """Move the phases that make a result behind all that do not need it, if a call then holds less memory.

    Until it is written, the memory of a result may hold the packed parameters of a call that packs anew, workspace,
    and scratch (`opc/program/loan.py`). Of a backward kernel the data gradient reads the packed weights, and the weight
    gradient, whose memory fits them, waits; but where copies and partial sums of the weight gradient are the larger
    part, and the data gradient's memory fits them, the data gradient waits. Phases are moved whole, and never past
    one that they share a written buffer with.

    Before:
        program v1 f machine avx2 {
          buffer x: f32[8,8]@gm input
          buffer u: f32[8,8]@gm output
          buffer v: f32[8]@gm output
          buffer w: f32[8,8]@gm workspace
          buffer t: f32[8]@reg local
          parallel i < 8 {
            copy_in.copy t[j] = x[i, j] for j<8
            copy_out.copy u[i, j] = t[j] for j<8
          }
          parallel i < 8 {
            copy_in.copy t[j] = x[i, j] for j<8
            copy_out.copy w[i, j] = t[j] for j<8
          }
          parallel i < 1 {
            copy_in.copy t[j] = w[7, j] for j<8
            copy_out.copy v[j] = t[j] for j<8
          }
        }

    After:
        program v1 f machine avx2 {
          buffer x: f32[8,8]@gm input
          buffer u: f32[8,8]@gm output
          buffer v: f32[8]@gm output
          buffer w: f32[8,8]@gm workspace
          buffer t: f32[8]@reg local
          parallel i < 8 {
            copy_in.copy t[j] = x[i, j] for j<8
            copy_out.copy w[i, j] = t[j] for j<8
          }
          parallel i < 1 {
            copy_in.copy t[j] = w[7, j] for j<8
            copy_out.copy v[j] = t[j] for j<8
          }
          parallel i < 8 {
            copy_in.copy t[j] = x[i, j] for j<8
            copy_out.copy u[i, j] = t[j] for j<8
          }
        }
    """

    name: ClassVar[str] = "order-phases"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """Each program in the order that holds least, the given one if none holds less."""
        if context.machine.kind != "cpu":
            return ir
        return map_programs(ir, lambda program: _ordered(program, context.machine))


def _ordered(program: Program, machine: Machine) -> Program:
    results = [b.name for b in program.buffers if b.kind == "output"]
    lent = any(b.kind in ("packed", "workspace") for b in program.buffers)
    if len(results) < 2 or not lent or any(not (isinstance(s, Loop) and s.parallel) for s in program.body):
        return program
    tried = [program, *(p for name in results if (p := _late(program, name)) is not None)]
    return min(tried, key=lambda p: _held(p, machine))


def _held(program: Program, machine: Machine) -> int:
    """Bytes of packed parameters, workspace and scratch that no result lends."""
    program = borrowed(program, {})
    packed = sum(b.slot_bytes for b in program.buffers if b.kind == "packed" and not b.lender)
    offsets = workspace_offsets(program, machine)
    sizes = {b.name: slot_size(machine, b) for b in program.buffers}
    workspace = max((start + sizes[name] for name, (start,) in offsets.items()), default=0)
    return packed + workspace + max(_scratch(program, machine), default=0)


def _scratch(program: Program, machine: Machine) -> Iterator[int]:
    """Bytes of scratch that each phase takes on a few threads, if no result lends them."""
    sizes = {
        b.name: slot_size(machine, b) * b.slots
        for b in program.buffers
        if b.kind == "local" and machine.spaces[b.space].addressable
    }
    for names, room in zip(phases(program), rooms(program), strict=True):
        size = _THREADS * sum(sizes.get(name, 0) for name in names)
        yield 0 if room is not None and size <= room.size else size


def _late(program: Program, result: str) -> Program | None:
    """The program with the phases behind ``result`` at its end; None if one of them has to be earlier."""
    late = {n for n, s in enumerate(program.body) if result in touched(s)}
    while more := _only_for(program, late) - late:
        late |= more
    for n in late:
        rest = (program.body[m] for m in range(n + 1, len(program.body)) if m not in late)
        if any(_share(program.body[n], other) - _locals(program) for other in rest):
            return None
    order = [*(n for n in range(len(program.body)) if n not in late), *sorted(late)]
    return replace(program, body=tuple(program.body[n] for n in order))


def _only_for(program: Program, late: set[int]) -> set[int]:
    """Phases that write workspace which only phases in ``late`` read."""
    own = {b.name for b in program.buffers if b.kind == "workspace"}
    users = {name: {n for n, s in enumerate(program.body) if name in touched(s)} for name in own}
    written = [_written(s) - _locals(program) for s in program.body]
    return {
        n
        for n, names in enumerate(written)
        if names and all(m in own and users[m] <= late | {n} for m in names)
    }


def _locals(program: Program) -> set[str]:
    return {b.name for b in program.buffers if b.kind == "local"}


def _written(stmt: Stmt) -> set[str]:
    return {a.buffer for i, _ in instructions((stmt,)) for a in i.dst}


def _share(a: Stmt, b: Stmt) -> set[str]:
    """What one writes and the other touches."""
    return (_written(a) & touched(b)) | (_written(b) & touched(a))
