"""How long a synchronised body takes on one core: instructions in text order into in-order pipes, flags between them.

Where ``opc.program.estimate`` prices dependences, this plays the flags and barriers that a body has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.ir import Instr, Loop, Program, instructions
from opc.program.pipes import pipe_of
from opc.program.unroll import Ranges, text_order, values

ALL = "ALL"
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Played:
    """Cycles of it all, and those that the busiest pipe works."""

    cycles: float
    busiest: float


def playback(loop: Loop, program: Program, machine: Machine) -> Played:
    """One iteration of a parallel loop whose flags are each set before they are waited for in the text."""
    texts = list(instructions(loop.body))
    player = _Player(program, machine)
    for i, loops in texts:
        player.add(i, [(loop.var, range(1)), *((inner.var, range(inner.extent)) for inner in loops)])
    for j in text_order(loop.body)[0]:
        player.step(j)
    return Played(max(player.now, *player.free.values(), *player.done.values()), max(player.busy.values()))


class _Player:
    """One core. ``now``: when the dispatcher is free; ``free`` and ``done``: when a pipe takes its next instruction,
    and when all it has started is complete.
    """

    def __init__(self, program: Program, machine: Machine) -> None:
        self.machine = machine
        self.table = program.table()
        self.now = 0.0
        self.free = dict.fromkeys(machine.pipes, 0.0)
        self.done = dict.fromkeys(machine.pipes, 0.0)
        self.busy = dict.fromkeys(machine.pipes, 0.0)
        depth = machine.queue_depth or None
        self.started: dict[str, deque[float]] = {p: deque(maxlen=depth) for p in machine.pipes}
        self.set_at: dict[Key, deque[float]] = {}
        self.texts: list[tuple[Instr, str, float, float]] = []
        self.flags: list[list[Key]] = []
        self.count: list[int] = []

    def add(self, i: Instr, ranges: Ranges) -> None:
        """The next instruction of the text."""
        pipe = pipe_of(i, self.table, self.machine)
        cost = cycles(i, self.table, self.machine)
        self.texts.append((i, pipe, cost.occupancy, cost.latency))
        self.flags.append(_flags(i, ranges, self.machine.event_ids))
        self.count.append(0)

    def step(self, j: int) -> None:
        """Run an instruction of the text once more."""
        i, pipe, occupancy, latency = self.texts[j]
        self.now += self.machine.dispatch_cycles
        if i.opcode == "sync.barrier" and pipe not in self.free:
            self._stop()
            return
        started = self.started[pipe]
        if len(started) == started.maxlen:
            self.now = max(self.now, started[0])
        begin = max(self.now, self.free[pipe])
        if i.opcode_class == "sync":
            self.free[pipe] = self._sync(j, i, pipe, begin)
        else:
            self.free[pipe] = begin + occupancy
            self.busy[pipe] += occupancy
            self.done[pipe] = max(self.done[pipe], begin + latency)
        started.append(begin)

    def _sync(self, j: int, i: Instr, pipe: str, begin: float) -> float:
        """When the pipe goes on after a flag or a barrier of its own."""
        sync = self.machine.sync_cycles
        if i.op == "barrier":
            return max(begin, self.done[pipe]) + sync
        key = self.flags[j][self.count[j] if len(self.flags[j]) > 1 else 0]
        self.count[j] += 1
        if i.op == "set_flag":
            self.set_at.setdefault(key, deque()).append(max(begin, self.done[pipe]) + sync)
            return begin + sync
        waiting = self.set_at.get(key)
        return max(begin, waiting.popleft() if waiting else 0.0) + sync

    def _stop(self) -> None:
        """A barrier across all pipes holds the dispatcher too."""
        self.now = max(self.now, *self.free.values(), *self.done.values()) + self.machine.sync_cycles
        for p in self.free:
            self.free[p] = self.done[p] = self.now


def _flags(i: Instr, ranges: Ranges, ids: int) -> list[Key]:
    """The flag at each execution; one entry if it never changes."""
    if i.flag is None or i.op == "barrier":
        return []
    source, target, form = i.flag
    numbers = [form.const] if form.is_const else values(form, ranges)
    return [(source, target, n % max(1, ids)) for n in numbers]
