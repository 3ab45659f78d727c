"""How long a program takes where one stream of instructions feeds all pipes: the model that compares orders.

Instructions enter a window of limited size in program order and leave it in that order when they have
finished. Each pipe takes its instructions in turn; an instruction waits for the last write of what it reads.
Long loops are executed a few times and then taken to be steady.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil, prod

from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.ir import Instr, Loop, Program, Stmt, instructions
from opc.program.opcodes import OPCODES
from opc.program.pipes import pipe_of

SETTLED = 6  # iterations after which a long loop is taken to be steady
LONG = 2000  # instructions that are executed one by one


def core_cycles(program: Program, machine: Machine) -> float:
    """Cycles of one core that runs the whole program."""
    total = 0.0
    for stmt in program.body:
        core = _Core(program, machine)
        if isinstance(stmt, Loop) and stmt.parallel:
            for inner in stmt.body:
                core.run(inner)
            total += core.done * stmt.extent
        else:
            core.run(stmt)
            total += core.done
    return total


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the model knows of an instruction: ``entries`` are the places that it takes in the window."""

    pipe: str
    busy: float
    latency: float
    entries: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]


class _Core:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.table, self.machine = program.table(), machine
        self.known: dict[int, _Facts] = {}
        self.free: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.waiting: deque[tuple[int, float]] = deque()
        self.held = 0
        self.entry = self.done = 0.0

    def run(self, stmt: Stmt) -> None:
        """Execute a statement."""
        if isinstance(stmt, Instr):
            self.issue(stmt)
            return
        long = stmt.extent > SETTLED and stmt.extent * _executed(stmt.body) > LONG
        middle = 0.0
        for n in range(SETTLED if long else stmt.extent):
            middle = self.done if n == SETTLED // 2 else middle
            for inner in stmt.body:
                self.run(inner)
        if long:
            self.skip((stmt.extent - SETTLED) * (self.done - middle) / (SETTLED - SETTLED // 2))

    def issue(self, instr: Instr) -> None:
        """Execute an instruction."""
        facts = self.known.get(id(instr)) or self.facts(instr)
        self.held += facts.entries
        while self.held > self.machine.window and self.waiting:
            entries, left = self.waiting.popleft()
            self.held -= entries
            self.entry = max(self.entry, left)
        needed = (self.ready.get(name, 0.0) for name in facts.reads)
        start = max(self.entry, self.free.get(facts.pipe, 0.0), *needed)
        self.entry += facts.entries * self.machine.dispatch_cycles
        self.free[facts.pipe] = start + facts.busy
        # Vectors of an instruction follow each other, and the next instruction follows them one by one.
        chained = facts.pipe == self.machine.vector_pipe
        for name in facts.writes:
            self.ready[name] = start + facts.latency - (facts.busy if chained else 0.0)
        self.done = max(self.done, start + facts.latency)
        self.waiting.append((facts.entries, self.done))

    def facts(self, instr: Instr) -> _Facts:
        cost = cycles(instr, self.table, self.machine)
        reads = [a.buffer for a in instr.sources] if instr.op != "prefetch" else []
        writes = tuple(a.buffer for a in instr.dst)
        if OPCODES[instr.opcode].reduces:
            reads += writes
        moved = prod(e for _, e in instr.dims) * max((self.table[b].dtype.bytes for b in writes), default=0)
        entries = 1 if instr.opcode_class == "cube" else max(1, ceil(moved / self.machine.vector_bytes))
        pipe = pipe_of(instr, self.table, self.machine)
        found = _Facts(pipe, cost.occupancy, cost.latency, entries, tuple(reads), writes)
        self.known[id(instr)] = found
        return found

    def skip(self, time: float) -> None:
        """Let time pass in which everything went on as before."""
        self.entry, self.done = self.entry + time, self.done + time
        self.free = {name: at + time for name, at in self.free.items()}
        self.ready = {name: at + time for name, at in self.ready.items()}
        self.waiting = deque((entries, at + time) for entries, at in self.waiting)


def _executed(body: tuple[Stmt, ...]) -> int:
    return sum(prod(loop.extent for loop in loops) for _, loops in instructions(body))
