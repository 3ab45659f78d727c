"""One core in time: in-order dispatch into in-order pipes, joined by binary flags and barriers.

The scalar unit dispatches in text order, one instruction each ``dispatch_cycles``, into a queue per pipe that
holds ``queue_depth`` instructions not yet started. A pipe starts its instructions in order. ``set_flag``
fires once everything earlier on its pipe has completed and holds nothing up; ``wait_flag`` holds its pipe
until the flag is set, then clears it; a barrier holds its pipe until everything earlier on it has completed,
and a barrier across all pipes holds the dispatch as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from opc.errors import Diagnostic, ListingError
from opc.machine.model import Machine
from opc.npu.expand import Trace
from opc.npu.listing import ALL
from opc.npu.shapes import costs_of
from opc.npu.text import print_instruction

WORK, SET, WAIT, BARRIER, BARRIER_ALL = range(5)
_KINDS = {"set_flag": SET, "wait_flag": WAIT}
Flag = tuple[str, str, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine needs of a trace, per static instruction (lists) or per dynamic one (``flags``)."""

    trace: Trace
    pipes: tuple[str, ...]
    kinds: list[int]
    pipe: list[int]
    occupancy: list[float]
    latency: list[float]
    flags: list[list[int]]  # numbers into ``names``; one entry if the event id is constant
    names: list[Flag]


@dataclass(frozen=True, slots=True)
class Run:
    """Start and completion of each dynamic instruction, by position in program order.

    ``signals``: (position of set, position of wait) pairs, in order of the sets. ``lost``: pairs (set, wait)
    where the set came before the wait had cleared the flag's previous setting.
    """

    start: list[float]
    complete: list[float]
    signals: list[tuple[int, int]]
    lost: list[tuple[int, int]]
    cycles: float


def plan(trace: Trace, machine: Machine) -> Plan:
    """Precompute everything that does not depend on the order of events."""
    pipes = tuple(dict.fromkeys((*machine.pipes, *(s.instruction.pipe for s in trace.statics))))
    number = {p: n for n, p in enumerate(pipes)}
    names: dict[Flag, int] = {}
    kinds, flags = [], []
    for s in trace.statics:
        i = s.instruction
        kind = _KINDS.get(i.mnemonic, WORK)
        if i.mnemonic == "pipe_barrier":
            kind = BARRIER_ALL if i.pipe == ALL else BARRIER
        found: list[int] = []
        if i.flag is not None and kind in (SET, WAIT):
            source, target, event = i.flag
            events = [event.const] if event.is_const else s.values(event)
            events = [e % i.modulo for e in events] if i.modulo else events
            found = [names.setdefault((source, target, e), len(names)) for e in events]
        kinds.append(kind)
        flags.append(found)
    occupancy, latency = costs_of(trace.statics, machine)
    pipe = [number[s.instruction.pipe] for s in trace.statics]
    return Plan(trace, pipes, kinds, pipe, occupancy, latency, flags, list(names))


class Engine:
    """A run of one plan. ``random`` draws every dispatch, start and duration anew (adversarial replay)."""

    def __init__(self, plan: Plan, machine: Machine, random: Random | None = None) -> None:
        self.plan, self.random = plan, random
        self.dispatch_cycles, self.depth = (
            machine.dispatch_cycles,
            machine.queue_depth or len(plan.trace.order) + 1,
        )
        self.sync = machine.sync_cycles
        n = len(plan.pipes)
        self.ordered = [p not in machine.unordered_pipes for p in plan.pipes]
        self.free = [0.0] * n  # when the pipe takes its next instruction
        self.done = [0.0] * n  # when everything started on it has completed
        self.started: list[list[float]] = [[] for _ in range(n)]
        self.queued: list[deque[tuple[int, int, int, float]]] = [deque() for _ in range(n)]
        self.issued = [0] * n
        self.sets: list[list[tuple[float, int]]] = [[] for _ in plan.names]
        self.clears: list[list[tuple[float, int]]] = [[] for _ in plan.names]
        self.waiting: dict[int, int] = {}  # flag -> pipe whose head waits for it
        # A replay is slow here and fast there: one pace per pipe, the last for the dispatch.
        self.paces = [random.choice((0.1, 5.0, 200.0)) if random else 0.0 for _ in range(n + 1)]
        self.start = [0.0] * len(plan.trace.order)
        self.complete = [0.0] * len(plan.trace.order)

    def run(self) -> Run:
        """Play the whole trace. Raises ListingError E0814 on deadlock."""
        p = self.plan
        kinds, pipes, flags, random = p.kinds, p.pipe, p.flags, self.random
        issued, queued, started_of, depth = self.issued, self.queued, self.started, self.depth
        count = [0] * len(kinds)
        now = 0.0
        for position, j in enumerate(p.trace.order):
            now += self.dispatch_cycles if random is None else self._stall()
            kind = kinds[j]
            if kind == BARRIER_ALL:
                now = self._barrier_all(position, now)
                continue
            pipe = pipes[j]
            n = issued[pipe]
            issued[pipe] = n + 1
            if n >= depth:
                started = started_of[pipe]
                if n - depth >= len(started):
                    raise self._deadlock(position)
                if started[n - depth] > now:
                    now = started[n - depth]
            if kind == WORK and random is None and not queued[pipe]:
                self._work(position, j, pipe, now)
                continue
            flag = -1
            if kind in (SET, WAIT):
                events = flags[j]
                if len(events) == 1:
                    flag = events[0]
                else:
                    flag = events[count[j]]
                    count[j] += 1
            if queued[pipe] or not self._execute(position, j, flag, now):
                queued[pipe].append((position, j, flag, now))
            elif kind == SET and self.waiting:
                resume(flag, queued, self.waiting, kinds, self._execute)
        if any(queued):
            raise self._deadlock(len(p.trace.order))
        return self._result()

    def _work(self, position: int, j: int, pipe: int, now: float) -> None:
        """Start an instruction that computes or moves, in the machine's own time."""
        begin = self.free[pipe]
        if now > begin:
            begin = now
        end = begin + self.plan.latency[j]
        self.free[pipe] = begin + self.plan.occupancy[j]
        if end > self.done[pipe]:
            self.done[pipe] = end
        self.start[position], self.complete[position] = begin, end
        self.started[pipe].append(begin)

    def _execute(self, position: int, j: int, flag: int, now: float) -> bool:
        """Start an instruction at the head of its pipe; False if it waits for a flag not yet set."""
        p = self.plan
        pipe, kind = p.pipe[j], p.kinds[j]
        begin = self.free[pipe]
        if now > begin:
            begin = now
        if self.random is not None:
            begin += self.random.random() * self.paces[pipe]
        if kind == WORK:
            busy, latency = p.occupancy[j], p.latency[j]
            if self.random is not None:
                busy, latency = self._perturb(pipe, latency)
            end = begin + latency
            self.free[pipe] = begin + busy
            if end > self.done[pipe]:
                self.done[pipe] = end
        elif kind == SET:
            end = max(begin, self.done[pipe]) + self.sync
            self.sets[flag].append((end, position))
            self.free[pipe] = begin + self.sync
        elif kind == WAIT:
            taken = len(self.clears[flag])
            if taken >= len(self.sets[flag]):
                self.waiting[flag] = pipe
                return False
            self.waiting.pop(flag, None)
            end = max(begin, self.sets[flag][taken][0]) + self.sync
            self.clears[flag].append((end, position))
            self.free[pipe] = end
        else:
            end = max(begin, self.done[pipe]) + self.sync
            self.free[pipe] = end
        self.start[position], self.complete[position] = begin, end
        self.started[pipe].append(begin)
        return True

    def _perturb(self, pipe: int, latency: float) -> tuple[float, float]:
        """An adversary's occupancy and latency; an ordered pipe still completes in order."""
        assert self.random is not None
        draw = self.random.random
        # Mostly short and sometimes very long, so that every unordered pair meets both ways round.
        end = (latency + self.paces[pipe]) * draw() * (20 if draw() < 0.2 else 1)
        return end if self.ordered[pipe] else end * draw(), end

    def _stall(self) -> float:
        assert self.random is not None
        return self.random.random() * self.paces[-1] * (20 if self.random.random() < 0.1 else 1)

    def _barrier_all(self, position: int, now: float) -> float:
        if any(self.queued):
            raise self._deadlock(position)
        end = max(now, *self.free, *self.done) + self.sync
        self.start[position], self.complete[position] = now, end
        self.free = [end] * len(self.free)
        self.done = [end] * len(self.done)
        return end

    def _result(self) -> Run:
        signals, lost = [], []
        for sets, clears in zip(self.sets, self.clears, strict=True):
            signals += [(s[1], c[1]) for s, c in zip(sets, clears, strict=False)]
            # The flag is binary: a set before the previous one is cleared is lost.
            lost += [
                (sets[n][1], clears[n - 1][1] if n <= len(clears) else sets[n - 1][1])
                for n in range(1, len(sets))
                if n > len(clears) or sets[n][0] < clears[n - 1][0]
            ]
        return Run(self.start, self.complete, sorted(signals), sorted(lost), max(0.0, *self.free, *self.done))

    def _deadlock(self, position: int) -> ListingError:
        return deadlock(self.plan, [q[0][1] for q in self.queued if q], position)


def resume(
    flag: int,
    queued: list[deque[tuple[int, int, int, T]]],
    waiting: Mapping[int, int],
    kinds: Sequence[int],
    execute: Callable[[int, int, int, T], bool],
) -> None:
    """Let the pipes run on that the setting of ``flag`` releases, and those that they release.

    A queue holds what ``execute`` takes: position, static instruction, flag and what else it needs. It says whether
    the instruction could start, and keeps ``waiting``, the pipe whose head waits for a flag.
    """
    work = [flag]
    while work:
        pipe = waiting.get(work.pop(), -1)
        queue = queued[pipe] if pipe >= 0 else ()
        while queue:
            _, j, its_flag, _ = queue[0]
            if not execute(*queue[0]):
                break
            queued[pipe].popleft()
            if kinds[j] == SET:
                work.append(its_flag)


def deadlock(plan: Plan, heads: Sequence[int], position: int) -> ListingError:
    """The error that names every instruction at the head of a pipe that cannot go on."""
    statics = plan.trace.statics
    notes = []
    for j in heads:
        i = statics[j].instruction
        notes.append(f"pipe {i.pipe} stands at '{print_instruction(i)}'")
    where = "the end of the trace"
    if position < len(plan.trace.order):
        where = f"'{print_instruction(statics[plan.trace.order[position]].instruction)}'"
    help = "every wait_flag needs a set_flag that can run before it"
    message = f"deadlock: nothing can run when dispatch reaches {where}"
    return ListingError(Diagnostic("E0814", message, notes=tuple(notes), help=help))
