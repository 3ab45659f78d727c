"""Flags and barriers for machines whose pipes run on their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from opc.affine import Affine
from opc.errors import PassError, fail
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.hazards import alike, trace
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.order import Order
from passes.program._events import Events, Key, allocate, relax
from passes.program._flags import Body, Flag, Path, Solver, Tweak
from passes.program._prune import prune
from passes.program._straight import straight

ALL = "ALL"


@dataclass(frozen=True)
class InsertSync:
    """Order every dependence between pipes with a flag and, on unordered pipes, with a barrier.

    Only dependences that pipe order and other flags leave open get one. A flag whose wait lies
    ``d`` iterations after its set is primed with ``d`` sets before the outermost loop and drained by
    ``d`` waits at the end; it cycles through event ids, so one side may run ahead of the other. When
    the ids of a pipe pair run out, flags are joined, then stop running ahead, then give way to a
    barrier across all pipes. What the rest makes needless on the unrolled trace goes at the end.

    Before:
        program v1 twice machine ascend910 {
          buffer x: f32[8,64]@gm input
          buffer y: f32[8,64]@gm output
          buffer t: f32[64]@ub local slots 2
          parallel core < 1 {
            loop i < 8 {
              copy_in.copy t{i}[j] = x[i, j] for j<64
              vector.mul t{i}[j] = t{i}[j], 2.0 for j<64
              vector.add t{i}[j] = t{i}[j], 1.0 for j<64
              copy_out.copy y[i, j] = t{i}[j] for j<64
            }
          }
        }

    After:
        program v1 twice machine ascend910 {
          buffer x: f32[8,64]@gm input
          buffer y: f32[8,64]@gm output
          buffer t: f32[64]@ub local slots 2
          parallel core < 1 {
            sync.set_flag MTE3 -> MTE2 id 0
            sync.set_flag MTE3 -> MTE2 id 2
            loop i < 8 {
              sync.wait_flag MTE3 -> MTE2 id i*2
              copy_in.copy t{i}[j] = x[i, j] for j<64
              sync.set_flag MTE2 -> V id i*2
              sync.wait_flag MTE2 -> V id i*2
              vector.mul t{i}[j] = t{i}[j], 2.0 for j<64
              sync.barrier V
              vector.add t{i}[j] = t{i}[j], 1.0 for j<64
              sync.set_flag V -> MTE3 id i*2
              sync.wait_flag V -> MTE3 id i*2
              copy_out.copy y[i, j] = t{i}[j] for j<64
              sync.set_flag MTE3 -> MTE2 id i*2
            }
            sync.wait_flag MTE3 -> MTE2 id 0
            sync.wait_flag MTE3 -> MTE2 id 2
          }
        }
    """

    name: ClassVar[str] = "insert-sync"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The same program with sync instructions; unchanged on machines that keep program order."""
        if context.machine.sync != "flags":
            return ir
        return map_programs(ir, lambda p: _synchronise(p, context.machine))


def _synchronise(program: Program, machine: Machine) -> Program:
    if any(i.opcode_class == "sync" for i, _ in instructions(program.body)):
        message = f"program '{program.name}' already has sync instructions"
        raise fail(PassError, "E0705", message, help="run insert-sync once, last")
    # A bare instruction stands between two grid barriers already.
    body = tuple(
        prune(synchronised(s, program, machine), program, machine) if isinstance(s, Loop) else s
        for s in program.body
    )
    return program if body == program.body else program.with_body(body)


def synchronised(loop: Loop, program: Program, machine: Machine) -> Loop:
    """A parallel loop with all flags and barriers; a sequential one becomes the only iteration of a parallel one."""
    if not loop.parallel:
        loop = Loop("core", 1, (loop,), True)
    straight_on = runs_straight(loop, program)
    body = _straight(loop, program, machine) if straight_on else _emit(*solved(loop, program, machine))
    if loop.extent > machine.cores:
        # The same core goes on with another iteration, which knows nothing of this one.
        body = (*body, _barrier(ALL))
    return Loop(loop.var, loop.extent, body, True)


def runs_straight(loop: Loop, program: Program) -> bool:
    """Whether the body has no loops and runs alike every time."""
    return not any(isinstance(s, Loop) for s in loop.body) and alike(loop, program)


def _straight(loop: Loop, program: Program, machine: Machine) -> tuple[Stmt, ...]:
    found = straight(trace(replace(loop, extent=1), program, machine), machine)
    body = Body((), loop.body, (), Order((), (), (), False), {}, frozenset(found.full))
    body.flags, body.barriers = list(found.ids), found.barriers
    ids: dict[Key, int] = {((), flag): number for flag, number in found.ids.items()}
    return _emit(body, Events(machine.event_ids, ids), False)


def solved(loop: Loop, program: Program, machine: Machine) -> tuple[Body, Events, bool]:
    """The body with flags that have ids, and whether primed flags are drained right after their loop."""
    tweaks: dict[Path, Tweak] = {}
    early = False
    solver = Solver(program, machine)
    while True:
        root = solver.solve(loop.body, (loop,), tweaks)
        events = allocate(root, machine.event_ids, early)
        if events.failed is None:
            return root, events, early
        tweaks = relax(root, events.failed, tweaks) if early else tweaks
        early = True


def _emit(body: Body, events: Events, early: bool) -> tuple[Stmt, ...]:
    found: list[Stmt] = []
    last: list[Stmt] = []
    before, after = _sync(body, events)
    for j, stmt in enumerate(body.stmts):
        child = body.children.get(j)
        primed = (
            [(b, f) for b in child.nest() for f in b.flags if f.distance] if child and not body.path else []
        )
        found += [s for b, f in primed for s in _ends(b, f, events, "set_flag")]
        found += before.get(j, ())
        if child is None:
            found.append(stmt)
        else:
            assert isinstance(stmt, Loop)
            found.append(Loop(stmt.var, stmt.extent, _emit(child, events, early), stmt.parallel))
        found += after.get(j, ())
        drains = [s for b, f in primed for s in _ends(b, f, events, "wait_flag")]
        (found if early else last).extend(drains)
    return (*found, *last)


def _sync(body: Body, events: Events) -> tuple[dict[int, list[Instr]], dict[int, list[Instr]]]:
    """The waits and barriers before each statement, and the sets after each."""
    before: dict[int, list[Instr]] = {}
    after: dict[int, list[Instr]] = {}
    for f in body.flags:
        before.setdefault(f.target, []).append(_flag("wait_flag", f, body, events, -f.distance))
        after.setdefault(f.source, []).append(_flag("set_flag", f, body, events, 0))
    for f in body.barriers:
        if f.target not in body.full:
            before.setdefault(f.target, []).append(_barrier(f.first))
    for j in sorted(body.full):
        before.setdefault(j, []).append(_barrier(ALL))
    return before, after


def _ends(body: Body, flag: Flag, events: Events, op: str) -> list[Instr]:
    """The sets that stand for iterations before the first, or the waits after the last."""
    start = -flag.distance if op == "set_flag" else body.iterations - flag.distance
    stride, base = events.stride(flag), events.base[body.path, flag]
    numbers = [Affine((), (base + stride * (start + n)) % events.count) for n in range(flag.distance)]
    return [Instr(f"sync.{op}", flag=(*flag.pair, number)) for number in numbers]


def _flag(op: str, flag: Flag, body: Body, events: Events, shift: int) -> Instr:
    """A set or wait with the id of the flattened iteration, ``shift`` iterations on."""
    stride, base = events.stride(flag), events.base[body.path, flag]
    terms: dict[str, int] = {}
    radix = stride
    for loop in reversed(body.loops):
        terms[loop.var] = radix % events.count
        radix *= loop.extent
    number = Affine.of(terms, (base + stride * shift) % events.count)
    return Instr(f"sync.{op}", flag=(*flag.pair, number))


def _barrier(pipe: str) -> Instr:
    return Instr("sync.barrier", flag=(pipe, pipe, Affine()))
