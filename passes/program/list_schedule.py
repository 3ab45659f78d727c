"""Reorder the statements of each body so that the pipes wait for each other less."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.dependence import Dep
from opc.program.estimate import Estimator, Unit
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions, map_programs


@dataclass(frozen=True)
class ListSchedule:
    """List scheduling by critical path over the dependences of region overlap, loop-carried ones included.

    Works on each body by itself, innermost first; an inner loop is one statement there. Statements are
    taken pipe by pipe, longest remaining path first; the model of ``opc.program.estimate`` decides
    whether the new order saves at least ``gain`` of the time; otherwise the given one stays.
    """

    gain: float = 0.001
    name: ClassVar[str] = "list-schedule"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with statements reordered; the same object if no order is better."""
        return map_programs(ir, lambda p: _schedule(p, context.machine, self.gain))


def _schedule(program: Program, machine: Machine, gain: float) -> Program:
    if len(machine.pipes) < 2 or any(i.opcode_class == "sync" for i, _ in instructions(program.body)):
        return program  # one pipe runs everything in turn, and flags belong to their places
    estimator = Estimator(program, machine)
    body = tuple(_inside(s, (), estimator, gain) for s in program.body)
    return program if body == program.body else program.with_body(body)


def _inside(stmt: Stmt, loops: tuple[Loop, ...], estimator: Estimator, gain: float) -> Stmt:
    if isinstance(stmt, Instr):
        return stmt
    body = tuple(_inside(s, (*loops, stmt), estimator, gain) for s in stmt.body)
    around = (*loops, replace(stmt, body=body))
    units = [estimator.unit(s, around) for s in body]
    deps = estimator.dependences(body, around)
    given = list(range(len(units)))
    order = list_order(units, deps, estimator) if len(units) > 1 else given
    if order != given:
        extent = 1 if stmt.parallel else stmt.extent
        _, old = estimator.loop(given, units, deps, extent)
        _, new = estimator.loop(order, units, deps, extent)
        order = order if new < old * (1 - gain) else given
    return replace(stmt, body=tuple(body[j] for j in order))


def list_order(units: Sequence[Unit], deps: Sequence[Dep], estimator: Estimator) -> list[int]:
    """An order of statements that respects dependences within an iteration."""
    successors: list[set[int]] = [set() for _ in units]
    waits: set[tuple[int, int]] = set()
    for d in deps:
        if d.distance == 0:
            successors[d.source].add(d.target)
            if not estimator.covered(units, d):
                waits.add((d.source, d.target))
    heights = _heights(units, successors, deps, estimator)
    waiting = [0] * len(units)
    for targets in successors:
        for t in targets:
            waiting[t] += 1
    ready: dict[str, list[tuple[float, int]]] = {}
    early = [0.0] * len(units)
    free: dict[str, float] = {}

    def offer(j: int) -> None:
        # A statement on several pipes queues at the one it holds longest.
        lead = max(units[j].pipes, key=lambda p: p[2] - p[1])[0]
        heapq.heappush(ready.setdefault(lead, []), (-heights[j], j))

    def start(j: int) -> float:
        return max(early[j], *(free.get(p, 0.0) - begin for p, begin, _ in units[j].pipes))

    for j, count in enumerate(waiting):
        if not count:
            offer(j)
    order: list[int] = []
    while len(order) < len(units):
        lead = min((p for p in ready if ready[p]), key=lambda p: (start(ready[p][0][1]), ready[p][0]))
        _, j = heapq.heappop(ready[lead])
        at = start(j)
        for p, _, end in units[j].pipes:
            free[p] = at + end
        order.append(j)
        for t in sorted(successors[j]):
            if (j, t) in waits:
                early[t] = max(early[t], at + units[j].latency)
            waiting[t] -= 1
            if not waiting[t]:
                offer(t)
    return order


def _heights(
    units: Sequence[Unit], successors: list[set[int]], deps: Sequence[Dep], estimator: Estimator
) -> list[float]:
    """Longest path from each statement to the end of the iteration; a statement that the next
    iteration waits for is charged the path it holds up there.
    """
    carried = [0.0] * len(units)
    heights = _longest(units, successors, carried)
    for d in deps:
        if d.distance == 1 and not estimator.covered(units, d):
            carried[d.source] = max(carried[d.source], heights[d.target])
    return _longest(units, successors, carried)


def _longest(units: Sequence[Unit], successors: list[set[int]], beyond: list[float]) -> list[float]:
    heights = [0.0] * len(units)
    for j in reversed(range(len(units))):
        after = max((heights[t] for t in successors[j]), default=0.0)
        heights[j] = max(beyond[j], after) + units[j].latency
    return heights
