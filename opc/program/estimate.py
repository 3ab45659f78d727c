"""How long a body takes on in-order pipes: the model by which the schedulers compare orders.

Statements are dispatched in program order; each pipe starts its next instruction when it is free and
what the instruction depends on has finished. Inner loops are measured first and then count as one
statement that holds each of its pipes for a while. Flags cost nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.dependence import Dep, Dependences, touches
from opc.program.ir import Instr, Loop, Program, Stmt
from opc.program.pipes import pipe_of

QUEUED = 3  # queue entries of an instruction inside a loop: itself, a wait and a set
SETTLED = 4  # simulated iterations after which a loop is taken to be steady


@dataclass(frozen=True, slots=True)
class Unit:
    """A statement's demand: per pipe when it first needs it and when it lets it go, counted from the
    statement's start, and after how long its results are there.
    """

    pipes: tuple[tuple[str, float, float], ...]
    latency: float
    counts: tuple[tuple[str, int], ...]  # instructions queued per pipe, inner iterations counted

    @property
    def names(self) -> frozenset[str]:
        return frozenset(p for p, _, _ in self.pipes)

    @property
    def is_loop(self) -> bool:
        return sum(n for _, n in self.counts) > 1

    def busy(self, pipe: str) -> float:
        """How long the statement holds a pipe."""
        return next((end - begin for p, begin, end in self.pipes if p == pipe), 0.0)


@dataclass(frozen=True, slots=True)
class Run:
    """A simulated execution: per pipe the first start and the last release, and the end of it all."""

    pipes: dict[str, tuple[float, float]]
    end: float


class Estimator:
    """Units and running times for one program on one machine."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.machine = machine
        self.table = program.table()
        self.known = Dependences(program, machine)

    def dependences(self, body: Sequence[Stmt], loops: Sequence[Loop]) -> list[Dep]:
        """Dependences among statements, in one iteration of all but the innermost loop."""
        carried = 1 if loops and not loops[-1].parallel else 0
        return self.known.between([touches(s) for s in body], loops, carried)

    def unit(self, stmt: Stmt, loops: Sequence[Loop]) -> Unit:
        """The demand of one statement inside ``loops``."""
        if isinstance(stmt, Instr):
            cost = cycles(stmt, self.table, self.machine)
            pipe = pipe_of(stmt, self.table, self.machine)
            return Unit(((pipe, 0.0, cost.occupancy),), cost.latency, ((pipe, 1),))
        around = (*loops, stmt)
        units = [self.unit(s, around) for s in stmt.body]
        deps = self.dependences(stmt.body, around)
        run, total = self.loop(range(len(units)), units, deps, stmt.extent)
        stretch = total - run.end
        pipes = tuple((p, begin, end + stretch) for p, (begin, end) in run.pipes.items())
        counts: dict[str, int] = {}
        for name, count in (c for u in units for c in u.counts):
            counts[name] = counts.get(name, 0) + stmt.extent * count
        return Unit(pipes, total, tuple(counts.items()))

    def loop(
        self, order: Sequence[int], units: Sequence[Unit], deps: Sequence[Dep], extent: int
    ) -> tuple[Run, float]:
        """(a simulated part, the time of all ``extent`` iterations) of a loop body in this order."""
        run = self.simulate(order, units, deps, min(extent, SETTLED))
        if extent <= SETTLED:
            return run, run.end
        before = self.simulate(order, units, deps, SETTLED // 2)
        steady = (run.end - before.end) / (SETTLED - SETTLED // 2)
        return run, run.end + (extent - SETTLED) * steady

    def simulate(
        self, order: Sequence[int], units: Sequence[Unit], deps: Sequence[Dep], iterations: int
    ) -> Run:
        """Execute the body ``iterations`` times, statements in the given order."""
        sources: list[list[tuple[int, int]]] = [[] for _ in units]
        for d in deps:
            if not self.covered(units, d):
                sources[d.target].append((d.source, d.distance))
        free: dict[str, float] = {}
        first: dict[str, float] = {}
        finish = [[0.0] * len(units) for _ in range(iterations)]
        dispatch = end = 0.0
        for v in range(iterations):
            for j in order:
                unit = units[j]
                start = dispatch
                for p, begin, _ in unit.pipes:
                    start = max(start, free.get(p, 0.0) - begin)
                for i, distance in sources[j]:
                    if distance <= v:
                        start = max(start, finish[v - distance][i])
                for p, begin, release in unit.pipes:
                    free[p] = start + release
                    first.setdefault(p, start + begin)
                finish[v][j] = start + unit.latency
                dispatch = self._dispatched(dispatch, unit, finish[v][j])
                end = max(end, finish[v][j])
        return Run({p: (first[p], free[p]) for p in free}, end)

    def _dispatched(self, now: float, unit: Unit, finish: float) -> float:
        """When the next statement can be dispatched: a long loop first has to leave its queues."""
        now += sum(n for _, n in unit.counts) * self.machine.dispatch_cycles
        deepest = QUEUED * max(n for _, n in unit.counts)
        depth = self.machine.queue_depth
        return now if not depth or deepest <= depth else max(now, finish - unit.latency * depth / deepest)

    def covered(self, units: Sequence[Unit], d: Dep) -> bool:
        """Whether a dependence costs nothing beyond the pipes: both ends on one ordered pipe, or one
        inner loop after itself, whose pipes hand over as they do within it.
        """
        source, target = units[d.source].names, units[d.target].names
        if d.source == d.target and units[d.source].is_loop:
            return True
        return source == target and len(source) == 1 and not source & self.machine.unordered_pipes
