"""Neighbouring loops that need each other's pipes for nothing, as one loop that does both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import ClassVar

from opc.affine import Affine
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.cost import cycles
from opc.program.dependence import Dependences, touches
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions
from opc.program.pipes import pipe_of
from opc.program.rewrite import substitute
from passes.program._shapes import mix

LED = range(4, 17)  # iterations of a loop that can spare one, and gains by it


@dataclass(frozen=True)
class Interleave:
    """Fuse a loop of multiplications with the vector work behind it that depends on none of them.

    n iterations of one and m of the other become min(n, m) iterations that do an even share of both. What does not
    divide stays a loop of its own if it is at most the fraction ``leave`` of them all; otherwise the first
    iterations do one more each. Loops inside are unrolled where the fused body then has at most ``size``
    instructions; otherwise the loops inside share the work in the same way, or parts of one stay
    loops with vector instructions between them. The order within the body is left to ``list-schedule``.
    Where accumulators are drained and zeroed directly before a short loop, its first iteration stands apart, so that
    ``list-schedule`` can put each drain, zero and product side by side.

    Before:
        program v1 beside machine amx {
          buffer x: bf16[6,16,32]@gm input
          buffer w: bf16[6,32,16]@gm input
          buffer y: f32[4,16,16]@gm output
          buffer a: bf16[16,32]@tmm local
          buffer b: bf16[32,16]@tmm local
          buffer c: f32[16,16]@tmm local
          buffer d: f32[16,16]@l2 local
          buffer t: f32[4,16]@reg local
          loop i < 4 {
            vector.copy c[m, n] = 0.0 for m<16, n<16
            loop s < 6 {
              copy_in.copy a[m, k] = x[s, m, k] for m<16, k<32
              copy_in.copy b[k, n] = w[s, k, n] for k<32, n<16
              cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=192}
            }
            loop r < 4 {
              copy_in.copy t[m, n] = x[i, m + r*4, n] for m<4, n<16
              copy_out.copy y[i, m + r*4, n] = t[m, n] for m<4, n<16
            }
            scale.drain d[m, n] = c[m, n] for m<16, n<16
          }
        }

    After:
        program v1 beside machine amx {
          buffer x: bf16[6,16,32]@gm input
          buffer w: bf16[6,32,16]@gm input
          buffer y: f32[4,16,16]@gm output
          buffer a: bf16[16,32]@tmm local
          buffer b: bf16[32,16]@tmm local
          buffer c: f32[16,16]@tmm local
          buffer d: f32[16,16]@l2 local
          buffer t: f32[4,16]@reg local
          loop i < 4 {
            vector.copy c[m, n] = 0.0 for m<16, n<16
            loop s < 2 {
              copy_in.copy a[m, k] = x[s*2, m, k] for m<16, k<32
              copy_in.copy b[k, n] = w[s*2, k, n] for k<32, n<16
              cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=192}
              copy_in.copy a[m, k] = x[s*2 + 1, m, k] for m<16, k<32
              copy_in.copy b[k, n] = w[s*2 + 1, k, n] for k<32, n<16
              cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=192}
              copy_in.copy t[m, n] = x[i, m + s*4, n] for m<4, n<16
              copy_out.copy y[i, m + s*4, n] = t[m, n] for m<4, n<16
            }
            loop s < 2 {
              copy_in.copy a[m, k] = x[s + 4, m, k] for m<16, k<32
              copy_in.copy b[k, n] = w[s + 4, k, n] for k<32, n<16
              cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=192}
              copy_in.copy t[m, n] = x[i, m + s*4 + 8, n] for m<4, n<16
              copy_out.copy y[i, m + s*4 + 8, n] = t[m, n] for m<4, n<16
            }
            scale.drain d[m, n] = c[m, n] for m<16, n<16
          }
        }
    """

    size: int = 64
    leave: float = 0.2
    name: ClassVar[str] = "interleave"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with fused loops; the same object if there are none."""
        return mix(ir, context.machine, lambda p: _Rewriter(p, context.machine, self).program())


class _Rewriter:
    def __init__(self, program: Program, machine: Machine, options: Interleave) -> None:
        self.source, self.machine = program, machine
        self.size, self.leave = options.size, options.leave
        self.table = program.table()
        self.known = Dependences(program, machine)

    def program(self) -> Program:
        body = self.body(self.source.body, ())
        return self.source if body == self.source.body else self.source.with_body(body)

    def body(self, body: tuple[Stmt, ...], loops: tuple[Loop, ...]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        at = 0
        while at < len(body):
            stmt, at = body[at], at + 1
            if isinstance(stmt, Instr) or not self.uses(stmt, self.machine.cube_pipe):
                found.append(stmt)
                continue
            if self.uses(stmt, self.machine.vector_pipe):
                found.append(replace(stmt, body=self.body(stmt.body, (*loops, stmt))))
                continue
            beside = self.beside(stmt, body[at:], loops)
            at += len(beside)
            led = _led(stmt, beside) if loops and not loops[-1].parallel and self.drained(found) else None
            if led:
                first, stmt, beside = led
                found += first
            found += self.fused(stmt, beside) if beside else [stmt]
        return tuple(found)

    def drained(self, before: Sequence[Stmt]) -> bool:
        """Whether accumulators are drained and started anew directly before: the first products can hide that."""
        ahead = list(takewhile(lambda s: isinstance(s, Instr), reversed(before)))
        classes = [s.opcode_class for s in ahead if isinstance(s, Instr)]
        starts = len(list(takewhile(lambda c: c == "vector", classes)))
        return starts > 0 and classes[starts : starts + 1] == ["scale"]

    def uses(self, stmt: Stmt, pipe: str) -> bool:
        return any(pipe_of(i, self.table, self.machine) == pipe for i, _ in instructions((stmt,)))

    def beside(self, loop: Loop, rest: tuple[Stmt, ...], loops: tuple[Loop, ...]) -> tuple[Stmt, ...]:
        """The statements right behind the loop that work on the vector pipe and are independent of it."""
        count = 0
        while count < len(rest) and self.only_vector(rest[count]):
            count += 1
        common = self.names((loop,)) & self.names(rest[:count])
        nodes = [touches(s, common) for s in (loop, *rest[:count])]
        groups = [None, *(1 for _ in rest[:count])]
        bound = [d.target for d in self.known.between(nodes, loops, 0, groups) if d.source == 0]
        return rest[: min(bound, default=count + 1) - 1]

    def names(self, body: tuple[Stmt, ...]) -> set[str]:
        """Buffers that the statements touch, and those that share bytes with them."""
        found = {a.buffer for i, _ in instructions(body) for a in (*i.dst, *i.sources)}
        return {alias for name in found for alias in self.known.aliases(name)}

    def only_vector(self, stmt: Stmt) -> bool:
        pipes = {pipe_of(i, self.table, self.machine) for i, _ in instructions((stmt,))}
        return pipes == {self.machine.vector_pipe}

    def fused(self, loop: Loop, beside: Sequence[Stmt]) -> list[Stmt]:
        """The loop's iterations dealt out to the statements beside it, by the time they take."""
        parts = list(_split(beside))
        weights = [self.time(p) for p in parts]
        found: list[Stmt] = []
        done, begin = 0.0, 0
        for part, weight in zip(parts, weights, strict=True):
            done += weight
            end = round(loop.extent * done / sum(weights))
            found += self.dealt(_slice(loop, begin, end - begin), part)
            begin = end
        return found

    def time(self, stmt: Stmt) -> float:
        total = 0.0
        for instr, loops in instructions((stmt,)):
            busy = cycles(instr, self.table, self.machine).occupancy
            for inner in loops:
                busy *= inner.extent
            total += busy
        return total

    def dealt(self, loop: Loop, part: Loop) -> list[Stmt]:
        """All of both loops: rounds of an even share of each, and what does not divide."""
        rounds = min(loop.extent, part.extent)
        if not rounds:
            return [s for s in (loop, part) if s.extent]
        ours, theirs = loop.extent // rounds, part.extent // rounds
        left = max(loop.extent % rounds, part.extent % rounds)
        if left <= self.leave * max(loop.extent, part.extent):
            ahead, behind = loop.extent % rounds, part.extent - theirs * rounds
            shared = self.round(_slice(loop, ahead, ours * rounds), part, rounds)
            return [*_some(_slice(loop, 0, ahead)), *shared, *_some(_slice(part, theirs * rounds, behind))]
        more = ours + (loop.extent % rounds > 0), theirs + (part.extent % rounds > 0)
        cut = [left * n for n in more]
        first = self.round(_slice(loop, 0, cut[0]), _slice(part, 0, cut[1]), left)
        rest = _slice(loop, cut[0], loop.extent - cut[0]), _slice(part, cut[1], part.extent - cut[1])
        return [*first, *self.round(*rest, rounds - left)]

    def round(self, loop: Loop, part: Loop, extent: int) -> list[Stmt]:
        """``extent`` times an even share of the loop and of ``part``; trips that do not divide stay behind."""
        ours, theirs = loop.extent // extent, part.extent // extent
        name = _fresh(loop.var, (loop, part))
        turn = Affine.var(name) if extent > 1 else Affine()
        mine, vector = _slice(loop, turn * ours, ours), _slice(part, turn * theirs, theirs)
        inner = _inside(vector, 0) if theirs == 1 else None
        if _size((mine, vector)) <= self.size:
            body = list(_flat((mine, vector)))
        elif inner:
            body = self.dealt(mine, inner)
        elif _inside(loop, 0):
            body = self.deeper(mine, vector)
        else:
            body = self.parted(mine, list(_flat((vector,))))
        return [Loop(name, extent, tuple(body))] if extent > 1 else body

    def deeper(self, loop: Loop, part: Loop) -> list[Stmt]:
        """The iterations of the loop one after the other, the loop inside sharing what they have of ``part``."""
        body: list[Stmt] = []
        done = 0
        for n in range(loop.extent):
            low, high = part.extent * n // loop.extent, part.extent * (n + 1) // loop.extent
            if low == high:
                continue
            inner = _inside(loop, n)
            assert inner
            body += [*_some(_slice(loop, done, n - done)), *self.dealt(inner, _slice(part, low, high - low))]
            done = n + 1
        return body + list(_some(_slice(loop, done, loop.extent - done)))

    def parted(self, loop: Loop, vector: list[Stmt]) -> list[Stmt]:
        """The loop in pieces, an even share of the vector instructions behind each."""
        pieces = max(1, min(loop.extent, len(vector), self.size // max(1, _size(loop.body))))
        body: list[Stmt] = []
        for n in range(pieces):
            low, high = loop.extent * n // pieces, loop.extent * (n + 1) // pieces
            body.append(_slice(loop, low, high - low))
            body += vector[len(vector) * n // pieces : len(vector) * (n + 1) // pieces]
        return body


def _led(loop: Loop, beside: Sequence[Stmt]) -> tuple[list[Stmt], Loop, tuple[Stmt, ...]] | None:
    """The first iteration apart, with as much of what stands beside the loop as lets the rest go round evenly; None
    where that is too much of the loop, or nothing makes it even.
    """
    part = beside[0] if len(beside) == 1 else None
    flat = isinstance(part, Loop) and all(isinstance(s, Instr) for s in (*part.body, *loop.body))
    if not isinstance(part, Loop) or not flat or loop.extent not in LED:
        return None
    rest = loop.extent - 1
    for ahead in range(min(part.extent, 2 + part.extent // rest)):
        left = part.extent - ahead
        if left % rest == 0 or rest % left <= 1:
            first = _flat((_slice(loop, 0, 1), _slice(part, 0, ahead)))
            return list(first), _slice(loop, 1, rest), (_slice(part, ahead, left),)
    return None


def _split(beside: Sequence[Stmt]) -> Iterator[Loop]:
    """Loops one by one, neighbouring instructions as a loop of one iteration."""
    run: list[Instr] = []
    for stmt in beside:
        if isinstance(stmt, Instr):
            run.append(stmt)
            continue
        if run:
            yield Loop("once", 1, tuple(run))
            run = []
        yield stmt
    if run:
        yield Loop("once", 1, tuple(run))


def _slice(loop: Loop, start: Affine | int, count: int) -> Loop:
    """``count`` iterations of the loop from ``start`` on."""
    first = Affine.var(loop.var) + start
    return replace(loop, extent=count, body=tuple(substitute(s, {loop.var: first}) for s in loop.body))


def _inside(loop: Loop, n: int) -> Loop | None:
    """The loop that is all of iteration ``n``, if one is."""
    inner = substitute(loop.body[0], {loop.var: n})
    return inner if len(loop.body) == 1 and isinstance(inner, Loop) else None


def _some(loop: Loop) -> tuple[Loop, ...]:
    return (loop,) if loop.extent else ()


def _flat(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """Every loop unrolled."""
    for stmt in body:
        if isinstance(stmt, Instr):
            yield stmt
            continue
        for n in range(stmt.extent):
            yield from _flat([substitute(s, {stmt.var: n}) for s in stmt.body])


def _size(body: Sequence[Stmt]) -> int:
    """Instructions once everything is unrolled."""
    total = 0
    for _, loops in instructions(tuple(body)):
        count = 1
        for loop in loops:
            count *= loop.extent
        total += count
    return total


def _fresh(name: str, loops: Sequence[Loop]) -> str:
    """A loop variable that means nothing to the loops."""
    taken = {loop.var for loop in loops}
    for instr, around in instructions(tuple(s for loop in loops for s in loop.body)):
        taken |= {n for n, _ in instr.dims} | {loop.var for loop in around}
        forms = [form for a in (*instr.dst, *instr.sources) for form in (*a.index, a.slot)]
        taken |= {n for form in (*forms, instr.init or Affine(), instr.form or Affine()) for n in form.names}
    while name in taken:
        name += "_"
    return name
