"""How long a body takes on in-order pipes: the model by which the schedulers compare orders.

Statements are dispatched in program order; each pipe starts its next instruction when it is free and
what the instruction depends on has finished and has been signalled: ``opc.schedule`` plays that. Inner loops are
measured first and then count as one statement that holds each of its pipes for a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.dependence import Dep, Dependences, touches
from opc.program.ir import Access, Instr, Loop, Program, Stmt
from opc.program.nearest import nearest
from opc.program.pipes import pipe_of
from opc.schedule.problem import SETTLED, Edge, Problem, Task, duration, replay


@dataclass(frozen=True, slots=True)
class Unit:
    """A statement's demand: per pipe when it first needs it and when it lets it go, counted from the
    statement's start, and after how long its results are there.
    """

    pipes: tuple[tuple[str, float, float], ...]
    latency: float
    entries: tuple[tuple[str, int], ...]  # places it takes in each pipe's queue, over all iterations
    dispatch: float  # how long no later statement can be dispatched

    @property
    def names(self) -> frozenset[str]:
        return frozenset(p for p, _, _ in self.pipes)

    @property
    def is_loop(self) -> bool:
        return sum(n for _, n in self.entries) > 1


LONG = 1000  # statements beyond which the end of an iteration no longer matters to the next


class Estimator:
    """Units and running times for one program on one machine."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.machine = machine
        self.table = program.table()
        self.known = Dependences(program, machine)
        self._units: dict[object, Unit] = {}
        self.sync = machine.sync_cycles if machine.sync == "flags" else 0.0

    def dependences(self, body: Sequence[Stmt], loops: Sequence[Loop]) -> list[Dep]:
        """Dependences among statements, in one iteration of all but the innermost loop. In one iteration of all
        loops, some that others imply are missing.
        """
        nodes = [touches(s) for s in body]
        if loops and not loops[-1].parallel and len(body) <= LONG:
            return self.known.between(nodes, loops, 1)
        return nearest(self.known, nodes, loops)

    def unit(self, stmt: Stmt, loops: Sequence[Loop]) -> Unit:
        """The demand of one statement inside ``loops``."""
        if isinstance(stmt, Instr):
            shape = _shape(stmt)
            if shape not in self._units:
                self._units[shape] = self._instr(stmt)
            return self._units[shape]
        around = (*loops, stmt)
        units = [self.unit(s, around) for s in stmt.body]
        problem = self.problem(units, self.dependences(stmt.body, around))
        order = range(len(units))
        run = replay(problem, order, min(stmt.extent, SETTLED))
        total = duration(problem, order, stmt.extent)
        first: dict[str, float] = {}
        for p, begin in ((p, run.starts[0][j] + b) for j in order for p, b, _ in units[j].pipes):
            first.setdefault(p, begin)
        stretch = total - run.end
        pipes = tuple((p, first[p], end + stretch) for p, end in run.free.items())
        # In each iteration a pipe waits for another and tells another.
        entries = dict.fromkeys(run.free, 2 * stmt.extent if len(run.free) > 1 else 0)
        for name, count in (e for u in units for e in u.entries):
            entries[name] += stmt.extent * count
        return Unit(pipes, total, tuple(entries.items()), self._dispatch(entries, total))

    def body(self, body: Sequence[Stmt], loops: Sequence[Loop]) -> Problem:
        """The scheduling problem of the statements inside ``loops``."""
        units = [self.unit(s, loops) for s in body]
        return self.problem(units, self.dependences(body, loops))

    def problem(self, units: Sequence[Unit], deps: Sequence[Dep]) -> Problem:
        """The statements of a body as a scheduling problem."""
        tasks = {id(u): Task(u.pipes, u.latency, u.dispatch, u.is_loop) for u in units}
        waits: dict[tuple[int, int, bool], float] = {}  # equal instructions share their unit
        edges = []
        for d in deps:
            key = (id(units[d.source]), id(units[d.target]), d.source == d.target)
            if (wait := waits.get(key)) is None:
                wait = waits[key] = self.wait(units, d)
            edges.append(Edge(d.source, d.target, wait, d.distance))
        return Problem(tuple([tasks[id(u)] for u in units]), tuple(edges))

    def _instr(self, instr: Instr) -> Unit:
        cost = cycles(instr, self.table, self.machine)
        pipe = pipe_of(instr, self.table, self.machine)
        return Unit(((pipe, 0.0, cost.occupancy),), cost.latency, ((pipe, 1),), self.machine.dispatch_cycles)

    def _dispatch(self, entries: Mapping[str, int], latency: float) -> float:
        """How long a loop keeps what follows it from being dispatched: until its last instructions fit
        into the queues.
        """
        count = sum(entries.values()) * self.machine.dispatch_cycles
        deepest, depth = max(entries.values()), self.machine.queue_depth
        return count if not depth or deepest <= depth else max(count, latency * (1 - depth / deepest))

    def wait(self, units: Sequence[Unit], d: Dep) -> float:
        """Least time from the start of a dependence's source to that of its target; 0 where the pipes
        alone keep the two in order: both ends on one ordered pipe, or one inner loop after itself, whose
        pipes hand over as they do within it.
        """
        source, target = units[d.source], units[d.target]
        if d.source == d.target and source.is_loop:
            return 0.0
        if source.names != target.names or len(source.names) > 1:
            return source.latency + 2 * self.sync  # a set and a wait
        return source.latency + self.sync if source.names & self.machine.unordered_pipes else 0.0


def _shape(instr: Instr) -> object:
    """What instructions of one cost have in common: all but the constants of their indices."""
    operands = [
        (a.buffer, *[f.terms for f in a.index]) if isinstance(a, Access) else a
        for a in (*instr.dst, *instr.src)
    ]
    return (instr.opcode, instr.dims, instr.scale, instr.hint, instr.fill, *operands)
