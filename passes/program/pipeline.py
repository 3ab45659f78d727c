"""Software pipelining: let iterations of the tile loop overlap by stages."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.estimate import Estimator
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.legality import offset_problems
from opc.schedule.modulo import modulo_schedule
from opc.schedule.problem import Problem, duration, makespan
from passes.program._stages import peel


@dataclass(frozen=True)
class Pipeline:
    """Split the tile loop into stages and run stage s of an iteration beside stage s + 1 of the one before.

    The tile loop is the innermost loop that copies in from memory, computes and copies out. A modulo
    schedule under the loop's dependences (slots included: a buffer with n slots is overwritten n
    iterations later) gives each statement its stage. The first iterations are peeled into a prologue,
    the last into an epilogue. The loop stays as it is where the model sees less than ``gain`` of its time
    to save, where it is too short, or where the text would grow beyond ``size`` instructions.

    Before:
        program v1 twice machine ascend910 {
          buffer x: f32[16,1024]@gm input
          buffer z: f32[16,1024]@gm workspace at 0
          buffer y: f32[16,1024]@gm output
          buffer a: f32[1024]@ub local slots 2
          buffer b: f32[1024]@ub local slots 2
          parallel core < 1 {
            loop i < 16 {
              copy_in.copy a{i}[j] = x[i, j] for j<1024
              vector.exp a{i}[j] = a{i}[j] for j<1024
              copy_out.copy z[i, j] = a{i}[j] for j<1024
              copy_in.copy b{i}[j] = z[i, j] for j<1024
              vector.exp b{i}[j] = b{i}[j] for j<1024
              copy_out.copy y[i, j] = b{i}[j] for j<1024
            }
          }
        }

    After:
        program v1 twice machine ascend910 {
          buffer x: f32[16,1024]@gm input
          buffer z: f32[16,1024]@gm workspace at 0
          buffer y: f32[16,1024]@gm output
          buffer a: f32[1024]@ub local slots 2
          buffer b: f32[1024]@ub local slots 2
          parallel core < 1 {
            copy_in.copy a[j] = x[0, j] for j<1024 {stage=0}
            vector.exp a[j] = a[j] for j<1024 {stage=0}
            copy_in.copy a{1}[j] = x[1, j] for j<1024 {stage=0}
            copy_out.copy z[0, j] = a[j] for j<1024 {stage=1}
            vector.exp a{1}[j] = a{1}[j] for j<1024 {stage=0}
            loop i < 14 {
              copy_in.copy a{i + 2}[j] = x[i + 2, j] for j<1024 {stage=0}
              copy_out.copy z[i + 1, j] = a{i + 1}[j] for j<1024 {stage=1}
              copy_in.copy b{i}[j] = z[i, j] for j<1024 {stage=2}
              vector.exp a{i + 2}[j] = a{i + 2}[j] for j<1024 {stage=0}
              vector.exp b{i}[j] = b{i}[j] for j<1024 {stage=2}
              copy_out.copy y[i, j] = b{i}[j] for j<1024 {stage=2}
            }
            copy_out.copy z[15, j] = a{15}[j] for j<1024 {stage=1}
            copy_in.copy b{14}[j] = z[14, j] for j<1024 {stage=2}
            vector.exp b{14}[j] = b{14}[j] for j<1024 {stage=2}
            copy_out.copy y[14, j] = b{14}[j] for j<1024 {stage=2}
            copy_in.copy b{15}[j] = z[15, j] for j<1024 {stage=2}
            vector.exp b{15}[j] = b{15}[j] for j<1024 {stage=2}
            copy_out.copy y[15, j] = b{15}[j] for j<1024 {stage=2}
          }
        }
    """

    stages: int = 3
    size: int = 400
    gain: float = 0.01
    name: ClassVar[str] = "pipeline"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with pipelined tile loops; the same object if there is none to gain from."""
        if len(context.machine.pipes) < 2 or context.machine.window:
            return ir  # one pipe, or one stream, needs no queues filled
        return map_programs(ir, lambda p: _Rewriter(p, context.machine, self).program())


class _Rewriter:
    def __init__(self, program: Program, machine: Machine, options: Pipeline) -> None:
        self.source, self.machine, self.options = program, machine, options
        self.table = program.table()
        self.estimator = Estimator(program, machine)

    def program(self) -> Program:
        if any(i.opcode_class == "sync" for i, _ in instructions(self.source.body)):
            return self.source  # flags belong to their places
        done = self.source
        for s in self.source.body:
            new = self.statement(s, ())
            if new == (s,):
                continue
            at = next(n for n, t in enumerate(done.body) if t is s)
            changed = done.with_body((*done.body[:at], *new, *done.body[at + 1 :]))
            # Live ranges err towards longer, and memory is not planned again: what cannot be proved stays a loop.
            done = done if any(offset_problems(changed, self.machine)) else changed
        return done

    def statement(self, stmt: Stmt, loops: tuple[Loop, ...]) -> tuple[Stmt, ...]:
        if isinstance(stmt, Instr):
            return (stmt,)
        if self.is_tile(stmt) and not any(self.is_tile(s) for s in stmt.body):
            return (stmt,) if stmt.parallel else self.pipelined(stmt, loops)
        body = tuple(t for s in stmt.body for t in self.statement(s, (*loops, stmt)))
        return (stmt if body == stmt.body else replace(stmt, body=body),)

    def is_tile(self, stmt: Stmt) -> bool:
        """Whether a loop takes data from memory to memory."""
        if isinstance(stmt, Instr):
            return False
        memory = self.machine.roles.get("memory")
        roles = set()
        for i, _ in instructions(stmt.body):
            if i.opcode_class == "copy_in" and any(self.table[a.buffer].space == memory for a in i.sources):
                roles.add("in")
            elif i.opcode_class == "copy_out" and self.table[i.dst[0].buffer].space == memory:
                roles.add("out")
            elif i.opcode_class in ("cube", "vector", "scale"):
                roles.add("compute")
        return len(roles) == 3

    def pipelined(self, loop: Loop, loops: tuple[Loop, ...]) -> tuple[Stmt, ...]:
        """The loop's replacement: prologue, steady state, epilogue; or the loop itself."""
        around = (*loops, loop)
        problem = self.estimator.body(loop.body, around)
        given = range(len(problem))
        found = modulo_schedule(problem, makespan(problem, given))
        if found is None:
            return (loop,)
        before = duration(problem, given, loop.extent)
        for most in range(min(self.options.stages, loop.extent) - 1, 0, -1):
            stages = [min(int(t / found.interval + 1e-6), most) for t in found.times]
            count = max(stages)
            if count < most or (count + 1) * _size(loop.body) > self.options.size:
                continue
            offsets = [t - s * found.interval for t, s in zip(found.times, stages, strict=True)]
            result = peel(loop, stages, _order(stages, offsets, problem))
            if self.duration(result, loops) < before * (1 - self.options.gain):
                return result
        return (loop,)

    def duration(self, body: tuple[Stmt, ...], loops: tuple[Loop, ...]) -> float:
        problem = self.estimator.body(body, (*loops, Loop("once", 1, ())))
        return makespan(problem, range(len(problem)))


def _size(body: tuple[Stmt, ...]) -> int:
    return sum(1 for _ in instructions(body))


def _order(stages: Sequence[int], offsets: Sequence[float], problem: Problem) -> list[int]:
    """Statements of the steady state: by their time within the interval, dependences kept."""
    after: list[set[int]] = [set() for _ in stages]
    for d in problem.edges:
        shift = d.distance + stages[d.target] - stages[d.source]
        assert shift >= 0, "a modulo schedule keeps every dependence"
        if shift == 0:
            after[d.source].add(d.target)
    waiting = [0] * len(stages)
    for targets in after:
        for t in targets:
            waiting[t] += 1
    ready = [(offsets[j], j) for j, n in enumerate(waiting) if not n]
    heapq.heapify(ready)
    order = []
    while ready:
        _, j = heapq.heappop(ready)
        order.append(j)
        for t in sorted(after[j]):
            waiting[t] -= 1
            if not waiting[t]:
                heapq.heappush(ready, (offsets[t], t))
    return order
