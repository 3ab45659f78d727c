"""Unroll what a core runs where the iterations of its loops fill each other's gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, NamedTuple

from opc.affine import Affine
from opc.collection import paused
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.reorder import reorder
from opc.program.rewrite import substitute
from opc.program.unroll import length
from passes.program._cut import Parts, choices, with_parts
from passes.program._judge import judged
from passes.program.insert_sync import runs_straight

_THOROUGH = 1500  # instructions of straight code that are ordered with all effort


@dataclass(frozen=True)
class Unroll:
    """Straight code for a core in its own order, where that saves ``gain`` of the time and a cycle per instruction.

    A loop is ordered as one statement, so that work of one inner loop never meets the iterations of another: what
    prepares a tile's operand waits for the sums of the tile before, though another pipe would do it. Unrolled
    instruction by instruction they meet. Both are played with the flags that they will get. Code of more than
    ``size`` instructions, and what is as near to the busiest pipe's work, stays a loop.

    Of straight code, what a core does first and last may be done in ``parts`` (`_cut.py`): loads, so that a product
    starts with its slice of them, and the last tile's products, drain and store, so that one follows the other part by
    part. A choice stays if it saves more cycles than it adds instructions; ``effort`` bounds how many are tried.

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
    effort: int = 16_384  # instructions ordered and played in all while looking for what to cut
    parts: tuple[int, ...] = (4, 2)
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
        found = self.straight(flat, program, machine)
        least = self.gain * rolled.cycles + len(found.loop.body)
        return found.loop if rolled.cycles - found.cycles > least else stmt

    def straight(self, flat: Loop, program: Program, machine: Machine) -> _Tried:
        """Straight code in its best order found, with what a core does first and last in parts where that pays."""
        body = [s for s in flat.body if isinstance(s, Instr)]
        best, chosen, left = _tried(flat, program, machine), Parts(), self.effort // len(body)
        for parts in self.parts:
            for choice in choices(body, program, machine, parts):
                if left <= 0:
                    return best
                left -= 1
                joined = {**chosen, **choice}
                tried = _tried(replace(flat, body=with_parts(body, joined)), program, machine)
                if tried.cycles + len(tried.loop.body) < best.cycles + len(best.loop.body):
                    best, chosen = tried, joined
        return best


class _Tried(NamedTuple):
    """A core's work in an order, and the cycles that it takes with its flags."""

    loop: Loop
    cycles: float


def _tried(loop: Loop, program: Program, machine: Machine) -> _Tried:
    ordered = _ordered(loop, program, machine)
    found = judged(ordered, program, machine)
    return _Tried(ordered, found.cycles if found is not None else inf)


def _ordered(loop: Loop, program: Program, machine: Machine) -> Loop:
    thorough = len(loop.body) <= _THOROUGH and all(isinstance(s, Instr) for s in loop.body)
    (found,) = reorder(program.with_body((loop,)), machine, thorough=thorough).program.body
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
