"""Unroll what a core runs where the iterations of its loops fill each other's gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from opc.affine import Affine
from opc.collection import paused
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.reorder import reorder
from opc.program.rewrite import substitute
from opc.program.unroll import length
from passes.program._judge import judged
from passes.program.insert_sync import runs_straight


@dataclass(frozen=True)
class Unroll:
    """Straight code for a core in its own order, where that saves ``gain`` of the time and a cycle per instruction.

    A loop is ordered as one statement, so that work of one inner loop never meets the iterations of another: what
    prepares a tile's operand waits for the sums of the tile before, though another pipe would do it. Unrolled
    instruction by instruction they meet. Both are played with the flags that they will get. Code of more than
    ``size`` instructions, and what is as near to the busiest pipe's work, stays a loop.

    Before:
        program v1 two_roles machine ascend910 {
          buffer x: f32[2,4096]@gm input
          buffer y: f32[2,4096]@gm output
          buffer a: f32[4096]@ub local slots 2 at 0, 16384
          buffer b: f32[4096]@ub local slots 2 at 32768, 49152
          parallel core < 1 {
            loop i < 2 {
              copy_in.copy a{i}[j] = x[i, j] for j<4096
              vector.exp a{i}[j] = a{i}[j] for j<4096
            }
            loop i < 2 {
              vector.exp b{i}[j] = a{i}[j] for j<4096
              copy_out.copy y[i, j] = b{i}[j] for j<4096
            }
          }
        }

    After:
        program v1 two_roles machine ascend910 {
          buffer x: f32[2,4096]@gm input
          buffer y: f32[2,4096]@gm output
          buffer a: f32[4096]@ub local slots 2 at 0, 16384
          buffer b: f32[4096]@ub local slots 2 at 32768, 49152
          parallel core < 1 {
            copy_in.copy a[j] = x[0, j] for j<4096
            copy_in.copy a{1}[j] = x[1, j] for j<4096
            vector.exp a[j] = a[j] for j<4096
            vector.exp b[j] = a[j] for j<4096
            vector.exp a{1}[j] = a{1}[j] for j<4096
            copy_out.copy y[0, j] = b[j] for j<4096
            vector.exp b{1}[j] = a{1}[j] for j<4096
            copy_out.copy y[1, j] = b{1}[j] for j<4096
          }
        }
    """

    size: int = 4096
    gain: float = 0.01
    name: ClassVar[str] = "unroll"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with straight code where that is faster; the same object if it is nowhere."""
        machine = context.machine
        if machine.sync != "flags" or len(machine.pipes) < 2:
            return ir
        with paused():
            return map_programs(ir, lambda p: self.rewrite(p, machine))

    def rewrite(self, program: Program, machine: Machine) -> Program:
        if any(i.opcode_class == "sync" for i, _ in instructions(program.body)):
            return program  # flags belong to their places
        body = tuple(self.statement(s, program, machine) for s in program.body)
        return program if body == program.body else program.with_body(body)

    def statement(self, stmt: Stmt, program: Program, machine: Machine) -> Stmt:
        """A top-level statement, unrolled if that is faster."""
        if isinstance(stmt, Instr) or not stmt.parallel or length(stmt.body) > self.size:
            return stmt
        if all(isinstance(s, Instr) for s in stmt.body):
            return stmt
        flat = replace(stmt, body=_flat(stmt.body))
        if not runs_straight(flat, program):
            return stmt
        rolled = judged(_ordered(stmt, program, machine), program, machine)
        if rolled is None or rolled.cycles <= rolled.busiest * (1 + self.gain):
            return stmt
        flat = _ordered(flat, program, machine)
        found = judged(flat, program, machine)
        least = self.gain * rolled.cycles + len(flat.body)
        return flat if found is not None and rolled.cycles - found.cycles > least else stmt


def _ordered(loop: Loop, program: Program, machine: Machine) -> Loop:
    (found,) = reorder(program.with_body((loop,)), machine, thorough=False).program.body
    assert isinstance(found, Loop)
    return found


def _flat(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """Every instruction as often as it runs."""
    found: list[Stmt] = []
    for s in body:
        if isinstance(s, Instr):
            found.append(s)
            continue
        inner = _flat(s.body)
        found += [substitute(t, {s.var: Affine((), n)}) for n in range(s.extent) for t in inner]
    return tuple(found)
