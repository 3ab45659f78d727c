"""Work on a product beside the next product, where the order of instructions decides what overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.dependence import Dep, Dependences, touches
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions
from opc.program.pipes import pipe_of
from opc.program.rewrite import substitute
from passes.program._shapes import mix
from passes.program._stages import peel


@dataclass(frozen=True)
class Stagger:
    """Move what the vector pipe does with the results of a sum behind the next sum, around the loop too.

    For machines whose pipes are fed by one stream of instructions: only what lies close together overlaps,
    so the epilogue of a tile has to stand beside the multiplications of the next. Works on the loops around a
    tile, innermost first: the work on the last tile of an iteration becomes stage 1, the first iteration is
    peeled and has none. So do the drains of the last tile, which then stand before the next one's zeros, where
    ``interleave`` and ``list-schedule`` put them among its first products. Each loop doubles the text. A loop
    around a staggered one is left alone where more than ``copies`` sums would stand in it, or where its
    iterations have ``enough`` tiles: then little is exposed.

    Before:
        program v1 tiles machine amx {
          buffer x: bf16[4,2,16,32]@gm input
          buffer w: bf16[2,32,16]@gm input
          buffer y: f32[4,16,16]@gm output
          buffer a: bf16[16,32]@tmm local
          buffer b: bf16[32,16]@tmm local
          buffer c: f32[16,16]@tmm local
          buffer d: f32[16,16]@l2 local
          buffer t: f32[16,16]@reg local
          loop i < 4 {
            loop s < 2 {
              copy_in.copy a[m, k] = x[i, s, m, k] for m<16, k<32
              copy_in.copy b[k, n] = w[s, k, n] for k<32, n<16
              cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {init=s, chain=64}
            }
            scale.drain d[m, n] = c[m, n] for m<16, n<16
            copy_in.copy t[m, n] = d[m, n] for m<16, n<16
            copy_out.copy y[i, m, n] = t[m, n] for m<16, n<16
          }
        }

    After:
        program v1 tiles machine amx {
          buffer x: bf16[4,2,16,32]@gm input
          buffer w: bf16[2,32,16]@gm input
          buffer y: f32[4,16,16]@gm output
          buffer a: bf16[16,32]@tmm local
          buffer b: bf16[32,16]@tmm local
          buffer c: f32[16,16]@tmm local
          buffer d: f32[16,16]@l2 local
          buffer t: f32[16,16]@reg local
          loop s < 2 {
            copy_in.copy a[m, k] = x[0, s, m, k] for m<16, k<32 {stage=0}
            copy_in.copy b[k, n] = w[s, k, n] for k<32, n<16 {stage=0}
            cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {init=s, stage=0, chain=64}
          }
          loop i < 3 {
            scale.drain d[m, n] = c[m, n] for m<16, n<16 {stage=1}
            loop s < 2 {
              copy_in.copy a[m, k] = x[i + 1, s, m, k] for m<16, k<32 {stage=0}
              copy_in.copy b[k, n] = w[s, k, n] for k<32, n<16 {stage=0}
              cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {init=s, stage=0, chain=64}
            }
            copy_in.copy t[m, n] = d[m, n] for m<16, n<16 {stage=1}
            copy_out.copy y[i, m, n] = t[m, n] for m<16, n<16 {stage=1}
          }
          scale.drain d[m, n] = c[m, n] for m<16, n<16 {stage=1}
          copy_in.copy t[m, n] = d[m, n] for m<16, n<16 {stage=1}
          copy_out.copy y[3, m, n] = t[m, n] for m<16, n<16 {stage=1}
        }
    """

    copies: int = 4
    enough: int = 4
    name: ClassVar[str] = "stagger"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with staggered loops; the same object if there is none."""
        return mix(ir, context.machine, lambda p: _Rewriter(p, context.machine, self).program())


class _Rewriter:
    def __init__(self, program: Program, machine: Machine, options: Stagger) -> None:
        self.source, self.machine, self.options = program, machine, options
        self.table = program.table()
        self.known = Dependences(program, machine)

    def program(self) -> Program:
        if not any(self.sums(s) for s in self.source.body):
            return self.source
        body = tuple(t for s in self.source.body for t in self.statement(s, ()))
        return self.source if body == self.source.body else self.source.with_body(body)

    def sums(self, stmt: Stmt) -> bool:
        """Whether a statement multiplies on the cube's own pipe."""
        return any(i.opcode_class == "cube" and self.pipe(i) == self.machine.cube_pipe for i in _within(stmt))

    def works(self, stmt: Stmt) -> bool:
        """Whether a statement keeps the vector pipe busy."""
        return any(self.pipe(i) == self.machine.vector_pipe for i in _within(stmt))

    def pipe(self, instr: Instr) -> str:
        return pipe_of(instr, self.table, self.machine)

    def statement(self, stmt: Stmt, loops: tuple[Loop, ...]) -> tuple[Stmt, ...]:
        if isinstance(stmt, Instr) or not self.sums(stmt):
            return (stmt,)
        body = tuple(t for s in stmt.body for t in self.statement(s, (*loops, stmt)))
        loop = stmt if body == stmt.body else replace(stmt, body=body)
        if loop.parallel or not any(self.works(s) for s in body):
            return (loop,)
        return self.staggered(loop, loops)

    def staggered(self, loop: Loop, loops: tuple[Loop, ...]) -> tuple[Stmt, ...]:
        """The loop's replacement: a first iteration without stage 1, the others, and what is left."""
        if loop.extent == 1:
            return tuple(substitute(s, {loop.var: 0}) for s in loop.body)
        stand = self.count(loop)
        if stand > 1 and (
            2 * stand > self.options.copies or self.count(loop, True) >= self.options.enough * loop.extent
        ):
            return (loop,)
        deps = self.known.between([touches(s) for s in loop.body], (*loops, loop))
        late = self.late(loop.body, deps)
        ends = self.ends(loop.body)
        while late and ends:
            order, stages = _placed(len(loop.body), late, ends, set())
            broken = _broken(order, stages, deps)
            if not broken & late:
                break
            late -= broken
        if late and ends:
            moved = _placed(len(loop.body), late, ends, self.drains(loop.body, ends))
            order, stages = (order, stages) if _broken(*moved, deps) else moved
        if not late or not ends or (not any(stages) and order == list(range(len(stages)))):
            return (loop,)
        if not any(stages):
            return (replace(loop, body=tuple(loop.body[j] for j in order)),)
        return tuple(t for s in peel(loop, stages, order) for t in _unrolled(s))

    def count(self, stmt: Stmt, executed: bool = False) -> int:
        """Sums in the text of a statement, or those it executes: loops, or runs of instructions, that only
        multiply and load.
        """
        if isinstance(stmt, Instr):
            return int(self.sums(stmt))
        if self.sums(stmt) and not any(self.breaks(s) for s in stmt.body):
            return 1
        found = sum(self.count(stmt.body[j], executed) for j in self.ends(stmt.body))
        return found * stmt.extent if executed else found

    def late(self, body: Sequence[Stmt], deps: Sequence[Dep]) -> set[int]:
        """Statements of the vector pipe that need a sum of the same iteration."""
        needs = {j for j, s in enumerate(body) if self.sums(s)}
        for d in sorted(deps, key=lambda d: (d.source, d.target)):
            if d.distance == 0 and d.kind == "RAW" and d.source in needs:
                needs.add(d.target)
        free = {j for j, s in enumerate(body) if self.works(s) and not self.sums(s)}
        found = needs & free
        for j in sorted(
            free - found, reverse=True
        ):  # what only they read, constants for example, goes with them
            readers = {d.target for d in deps if (d.source, d.kind) == (j, "RAW")}
            if readers and readers <= found:
                found.add(j)
        return found

    def ends(self, body: Sequence[Stmt]) -> list[int]:
        """The last multiplication of each sum: of each run of statements without vector work or drains."""
        found: list[int] = []
        for j, stmt in enumerate(body):
            if self.sums(stmt):
                if found and not any(self.breaks(body[k]) for k in range(found[-1] + 1, j + 1)):
                    found.pop()
                found.append(j)
        return found

    def drains(self, body: Sequence[Stmt], ends: Sequence[int]) -> set[int]:
        """Drains behind the last sum: they may stand among the next sum's first products."""
        behind = range(ends[-1] + 1, len(body)) if ends else ()
        found = [(j, body[j]) for j in behind]
        return {
            j for j, s in found if isinstance(s, Instr) and s.opcode_class == "scale" and not self.works(s)
        }

    def breaks(self, stmt: Stmt) -> bool:
        return any(
            i.opcode_class == "scale" or self.pipe(i) == self.machine.vector_pipe for i in _within(stmt)
        )


def _within(stmt: Stmt) -> list[Instr]:
    return [i for i, _ in instructions((stmt,))]


def _unrolled(stmt: Stmt) -> tuple[Stmt, ...]:
    """A loop of one iteration as its body."""
    if isinstance(stmt, Instr) or stmt.extent > 1:
        return (stmt,)
    return tuple(substitute(s, {stmt.var: 0}) for s in stmt.body)


def _placed(count: int, late: set[int], ends: Sequence[int], drains: set[int]) -> tuple[list[int], list[int]]:
    """(order, stages): every late statement directly after the next sum's end, those behind the last sum in the
    iteration that follows, which begins with the drains.
    """
    stages = [int((j in late and j > ends[-1]) or j in drains) for j in range(count)]
    keys: list[tuple[int, int, int]] = []
    for j in range(count):
        if j in drains:
            keys.append((-1, 0, j))
        elif j not in late:
            keys.append((j, 0, j))
        elif stages[j]:
            keys.append((ends[0], 1, j))
        else:
            keys.append((next(e for e in ends if e > j), 1, j))
    return sorted(range(count), key=lambda j: keys[j]), stages


def _broken(order: Sequence[int], stages: Sequence[int], deps: Sequence[Dep]) -> set[int]:
    """Both ends of the dependences that the order does not keep."""
    rank = {j: n for n, j in enumerate(order)}
    found: set[int] = set()
    for d in deps:
        shift = d.distance + stages[d.target] - stages[d.source]
        if shift < 0 or (shift == 0 and rank[d.source] >= rank[d.target]):
            found |= {d.source, d.target}
    return found
