"""Reorder the statements of each body so that the pipes wait for each other less."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.dependence import Dep
from opc.program.estimate import Estimator, Unit
from opc.program.ir import Instr, Loop, Module, Program, Stmt, instructions, map_programs
from passes.program._shapes import reshaped
from passes.program._spread import spread

LOOK = 16  # ready statements of a pipe that are considered at a time


@dataclass(frozen=True)
class ListSchedule:
    """List scheduling by critical path over the dependences of region overlap, loop-carried ones included.

    Works on each body by itself, innermost first; an inner loop is one statement there. Statements are
    taken pipe by pipe, longest remaining path first; the model of ``opc.program.estimate`` decides
    whether the new order saves at least ``gain`` of the time; otherwise the given one stays.
    Where one stream of instructions feeds all pipes (a machine with a ``window``), vector work is spread evenly
    among the multiplications instead, and every load of an operand goes right before its first use.

    Before:
        program v1 two_chains machine ascend910 {
          buffer x: f32[1024]@gm input
          buffer z: f32[2048]@gm input
          buffer y: f32[1024]@gm output
          buffer w: f32[2048]@gm output
          buffer a: f32[1024]@ub local
          buffer b: f32[2048]@ub local
          parallel core < 1 {
            copy_in.copy a[j] = x[j] for j<1024
            vector.exp a[j] = a[j] for j<1024
            copy_out.copy y[j] = a[j] for j<1024
            copy_in.copy b[j] = z[j] for j<2048
            vector.exp b[j] = b[j] for j<2048
            vector.exp b[j] = b[j] for j<2048
            copy_out.copy w[j] = b[j] for j<2048
          }
        }

    After:
        program v1 two_chains machine ascend910 {
          buffer x: f32[1024]@gm input
          buffer z: f32[2048]@gm input
          buffer y: f32[1024]@gm output
          buffer w: f32[2048]@gm output
          buffer a: f32[1024]@ub local
          buffer b: f32[2048]@ub local
          parallel core < 1 {
            copy_in.copy b[j] = z[j] for j<2048
            copy_in.copy a[j] = x[j] for j<1024
            vector.exp b[j] = b[j] for j<2048
            vector.exp a[j] = a[j] for j<1024
            vector.exp b[j] = b[j] for j<2048
            copy_out.copy y[j] = a[j] for j<1024
            copy_out.copy w[j] = b[j] for j<2048
          }
        }
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
    if machine.window:
        return program if reshaped(program, machine) else spread(program, machine)
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
    waits: dict[tuple[int, int], float] = {}
    waiting = [0] * len(units)
    for d in deps:
        if d.distance == 0:
            waiting[d.target] += d.target not in successors[d.source]
            successors[d.source].add(d.target)
            waits[d.source, d.target] = estimator.wait(units, d)
    queues = _Queues(units, _heights(units, successors, deps, estimator))
    for j, count in enumerate(waiting):
        if not count:
            queues.offer(j, 0.0)
    order: list[int] = []
    early = [0.0] * len(units)
    while len(order) < len(units):
        j, at = queues.take()
        order.append(j)
        for t in sorted(successors[j]):
            early[t] = max(early[t], at + waits[j, t])
            waiting[t] -= 1
            if not waiting[t]:
                queues.offer(t, early[t])
    return order


class _Queues:
    """Statements whose dependences are placed, by the pipe that they hold longest."""

    def __init__(self, units: Sequence[Unit], heights: Sequence[float]) -> None:
        self.units, self.heights = units, heights
        self.ready: dict[str, list[tuple[float, int]]] = {}
        self.early: dict[int, float] = {}
        self.free: dict[str, float] = {}

    def offer(self, j: int, early: float) -> None:
        """Statement ``j`` may start at ``early`` if its pipes are free."""
        self.early[j] = early
        lead = max(self.units[j].pipes, key=lambda p: p[2] - p[1])[0]
        insort(self.ready.setdefault(lead, []), (-self.heights[j], j))

    def take(self) -> tuple[int, float]:
        """The statement to place next and its start: of each pipe the one with the longest remaining
        path, or a shorter one that fits into the gap before it; of these the first to start.
        """
        best = min(
            (self._pick(queue) for queue in self.ready.values() if queue),
            key=lambda j: (self.start(j), -self.heights[j], j),
        )
        at = self.start(best)
        for queue in self.ready.values():
            if (-self.heights[best], best) in queue[:LOOK]:
                queue.remove((-self.heights[best], best))
                break
        for p, _, end in self.units[best].pipes:
            self.free[p] = at + end
        return best, at

    def start(self, j: int) -> float:
        return max(self.early[j], *(self.free.get(p, 0.0) - begin for p, begin, _ in self.units[j].pipes))

    def _pick(self, queue: list[tuple[float, int]]) -> int:
        top = queue[0][1]
        limit = self.start(top)
        for _, j in queue[1:LOOK]:
            begin = self.start(j)
            # A filler may overrun the gap by half of what it fills.
            if begin + max(end for _, _, end in self.units[j].pipes) <= limit + (limit - begin) / 2:
                return j
        return top


def _heights(
    units: Sequence[Unit], successors: list[set[int]], deps: Sequence[Dep], estimator: Estimator
) -> list[float]:
    """Longest path from each statement to the end of the iteration; a statement that the next
    iteration waits for is charged the path it holds up there.
    """
    carried = [0.0] * len(units)
    heights = _longest(units, successors, carried)
    for d in deps:
        if d.distance == 1 and estimator.wait(units, d):
            carried[d.source] = max(carried[d.source], heights[d.target])
    return _longest(units, successors, carried)


def _longest(units: Sequence[Unit], successors: list[set[int]], beyond: list[float]) -> list[float]:
    heights = [0.0] * len(units)
    for j in reversed(range(len(units))):
        after = max((heights[t] for t in successors[j]), default=0.0)
        heights[j] = max(beyond[j], after) + units[j].latency
    return heights
