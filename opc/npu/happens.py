"""Happens-before over all timings: one pass with a vector clock per pipe.

``clock[p][q]`` is how many instructions of pipe q are known to have completed when pipe p takes its next
instruction, whatever the timing. The k-th set of a flag meets its k-th wait; that this is so in every timing
is itself proved: set k+1 must happen after wait k. The order of processing does not matter, since queues,
flags and barriers leave no choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from opc.machine.model import Machine
from opc.npu.engine import BARRIER, BARRIER_ALL, SET, WAIT, WORK, Plan, resume
from opc.program.footprints import Memory


@dataclass(frozen=True, slots=True)
class Access:
    """Regions that each execution of a static instruction reads and writes in one memory."""

    memory: Memory
    reads: Sequence[Sequence[int]]  # by execution
    writes: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Race:
    """Two accesses to shared bytes, at positions ``first`` < ``second`` of the trace, without an order."""

    memory: Memory
    first: int
    second: int
    first_writes: bool
    second_writes: bool
    shared: tuple[int, int]
    reversed: bool  # ordered, but against program order


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pass found; positions are those of the trace."""

    races: tuple[Race, ...]
    doubled: tuple[tuple[int, int], ...]  # (set, set) with no wait between them for certain
    left: tuple[int, ...]  # sets that nobody waits for
    stuck: tuple[int, ...]  # instructions at the heads of pipes that can never go on
    position: int  # how far dispatch came
    checked: int  # pairs compared


class Pass:
    """The state of one pass over one core's trace."""

    def __init__(self, plan: Plan, machine: Machine, accesses: list[list[Access]]) -> None:
        n = len(plan.pipes)
        self.plan, self.accesses = plan, accesses
        self.depth = machine.queue_depth or len(plan.trace.order) + 1
        self.ordered = [p not in machine.unordered_pipes for p in plan.pipes]
        self.number = {p: k for k, p in enumerate(plan.pipes)}
        self.clock = [[0] * n for _ in range(n)]
        self.count = [0] * n
        self.issued = [0] * n
        self.queued: list[deque[tuple[int, int, int, int]]] = [deque() for _ in range(n)]
        self.sets: list[list[tuple[list[int], int]]] = [[] for _ in plan.names]
        self.waits: list[list[int]] = [[] for _ in plan.names]
        self.waiting: dict[int, int] = {}
        self.races: dict[tuple[int, int], Race] = {}
        self.doubled: dict[tuple[int, int], tuple[int, int]] = {}
        self.checked = 0

    def run(self) -> Verdict:
        """Process the whole trace, or until it is stuck."""
        p = self.plan
        executions = [0] * len(p.kinds)
        for position, j in enumerate(p.trace.order):
            kind = p.kinds[j]
            k = executions[j]
            executions[j] = k + 1
            if kind == BARRIER_ALL:
                if any(self.queued):
                    return self._verdict(position)
                for row in self.clock:
                    row[:] = self.count
                continue
            pipe = p.pipe[j]
            if self.issued[pipe] - self.count[pipe] >= self.depth:
                return self._verdict(position)
            self.issued[pipe] += 1
            flag = -1
            if kind in (SET, WAIT):
                flag = p.flags[j][k if len(p.flags[j]) > 1 else 0]
            if self.queued[pipe] or not self._execute(position, j, flag, k):
                self.queued[pipe].append((position, j, flag, k))
            elif kind == SET and self.waiting:
                resume(flag, self.queued, self.waiting, p.kinds, self._execute)
        return self._verdict(len(p.trace.order))

    def _execute(self, position: int, j: int, flag: int, k: int) -> bool:
        pipe, kind = self.plan.pipe[j], self.plan.kinds[j]
        clock, number = self.clock[pipe], self.count[pipe]
        if kind == WORK:
            self._access(position, j, k, pipe, clock, number)
        elif kind == SET:
            self._set(position, flag, pipe, clock, number)
        elif kind == WAIT:
            taken = len(self.waits[flag])
            if taken >= len(self.sets[flag]):
                self.waiting[flag] = pipe
                return False
            self.waiting.pop(flag, None)
            self.waits[flag].append(number)
            clock[:] = map(max, clock, self.sets[flag][taken][0])
        self.count[pipe] = number + 1
        if kind == BARRIER or self.ordered[pipe]:
            clock[pipe] = number + 1
        return True

    def _set(self, position: int, flag: int, pipe: int, clock: list[int], number: int) -> None:
        target = self.number[self.plan.names[flag][1]]
        done, before = self.waits[flag], len(self.sets[flag])
        if before and (len(done) < before or done[before - 1] >= clock[target]):
            previous = self.sets[flag][before - 1][1]
            order = self.plan.trace.order
            self.doubled.setdefault((order[previous], order[position]), (previous, position))
        snapshot = list(clock)
        snapshot[pipe] = number + 1
        self.sets[flag].append((snapshot, position))

    def _access(self, position: int, j: int, k: int, pipe: int, clock: list[int], number: int) -> None:
        for a in self.accesses[j]:
            memory = a.memory
            reads, writes = memory.reads, memory.writes
            for region in a.reads[k]:
                for other in memory.adjacent[region]:
                    self.checked += len(writes[other])
                    for q, (n, at) in writes[other].items():
                        if n >= clock[q] or at > position:
                            self._race(memory, (at, other, True), (position, region, False), n < clock[q])
            for region in a.writes[k]:
                for other in memory.adjacent[region]:
                    self.checked += len(writes[other]) + len(reads[other])
                    for q, (n, at) in writes[other].items():
                        if n >= clock[q] or at > position:
                            self._race(memory, (at, other, True), (position, region, True), n < clock[q])
                    for q, (n, at) in reads[other].items():
                        if n >= clock[q] or at > position:
                            self._race(memory, (at, other, False), (position, region, True), n < clock[q])
        for a in self.accesses[j]:
            for region in a.reads[k]:
                a.memory.reads[region][pipe] = (number, position)
            for region in a.writes[k]:
                a.memory.writes[region][pipe] = (number, position)

    def _race(
        self, memory: Memory, one: tuple[int, int, bool], two: tuple[int, int, bool], ordered: bool
    ) -> None:
        first, second = sorted((one, two))
        order = self.plan.trace.order
        key = (order[first[0]], order[second[0]])
        if key not in self.races:
            shared = memory.shared(one[1], two[1])
            self.races[key] = Race(memory, first[0], second[0], first[2], second[2], shared, ordered)

    def _verdict(self, position: int) -> Verdict:
        left = [
            sets[n][1]
            for sets, waits in zip(self.sets, self.waits, strict=True)
            for n in range(len(waits), len(sets))
        ]
        stuck = [q[0][0] for q in self.queued if q]
        races = tuple(sorted(self.races.values(), key=lambda r: (r.second, r.first)))
        doubled = tuple(sorted(self.doubled.values()))
        return Verdict(races, doubled, tuple(left), tuple(stuck), position, self.checked)
