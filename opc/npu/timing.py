"""Timing simulation: the busiest core's timeline, phase after phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from opc.machine import Machine, load
from opc.npu.engine import WAIT, WORK, Engine, Plan, Run, plan
from opc.npu.expand import expand
from opc.npu.listing import Listing
from opc.npu.text import print_instruction


@dataclass(frozen=True, slots=True)
class Event:
    """One instruction on its pipe, in cycles: ``end`` frees the pipe, ``complete`` the data."""

    start: float
    end: float
    complete: float
    pipe: str
    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Signal:
    """A flag, drawn from the end of the last instruction before the set (``set_time``) to the start of the
    first one after the wait (``wait_time``).
    """

    source: str
    set_time: float
    target: str
    wait_time: float
    event: str


@dataclass(frozen=True, slots=True)
class PhaseRun:
    """One phase of the busiest core, from ``offset`` cycles on."""

    plan: Plan
    run: Run
    offset: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """A listing in time. No time depends on data, so every core runs like core 0 or finishes sooner."""

    listing: Listing
    machine: Machine
    phases: tuple[PhaseRun, ...]
    cycles: float
    busy: dict[str, float]  # cycles in which each pipe is occupied
    instructions: int

    @property
    def name(self) -> str:
        return self.listing.name

    @property
    def pipes(self) -> tuple[str, ...]:
        return self.machine.pipes

    @property
    def clock_mhz(self) -> float:
        return self.machine.clock_mhz

    @property
    def microseconds(self) -> float:
        return self.cycles / self.machine.clock_mhz

    @property
    def busy_share(self) -> dict[str, float]:
        """Busy cycles of each pipe over all cycles."""
        return {p: (b / self.cycles if self.cycles else 0.0) for p, b in self.busy.items()}

    def events(self) -> Iterator[Event]:
        """Every instruction but the synchronisation, in program order."""
        yield from (e for kind, e in self._slices() if kind == WORK)

    def stalls(self) -> Iterator[Event]:
        """Every wait_flag that held its pipe up for longer than it takes by itself."""
        for kind, e in self._slices():
            if kind == WAIT and e.end - e.start > self.machine.sync_cycles:
                yield e

    def _slices(self) -> Iterator[tuple[int, Event]]:
        for phase in self.phases:
            p, run, at = phase.plan, phase.run, phase.offset
            texts: dict[int, str] = {}
            for n, j in enumerate(p.trace.order):
                kind = p.kinds[j]
                if kind not in (WORK, WAIT):
                    continue
                i = p.trace.statics[j].instruction
                text = texts.setdefault(j, print_instruction(i))
                start, complete = at + run.start[n], at + run.complete[n]
                end = start + p.occupancy[j] if kind == WORK else complete
                yield kind, Event(start, end, complete, i.pipe, i.mnemonic, i.line, text)

    def signals(self) -> Iterator[Signal]:
        """Every flag that is set after one instruction and waited for before another."""
        for phase in self.phases:
            p, run, at = phase.plan, phase.run, phase.offset
            before = _neighbours(p, range(len(p.trace.order)))
            after = _neighbours(p, range(len(p.trace.order) - 1, -1, -1))
            for set_at, wait_at in run.signals:
                source, target = before.get(set_at), after.get(wait_at)
                if source is None or target is None:
                    continue
                i = p.trace.statics[p.trace.order[set_at]].instruction
                assert i.flag is not None
                end = run.start[source] + p.occupancy[p.trace.order[source]]
                name = f"{i.flag[0]}->{i.flag[1]} {i.flag[2]}"
                yield Signal(i.flag[0], at + end, i.flag[1], at + run.start[target], name)


def _neighbours(p: Plan, positions: Iterable[int]) -> dict[int, int]:
    """For each set and wait, the instruction met last on its pipe when walking ``positions``."""
    last: dict[int, int] = {}
    found: dict[int, int] = {}
    for n in positions:
        j = p.trace.order[n]
        if p.kinds[j] == WORK:
            last[p.pipe[j]] = n
        elif p.pipe[j] in last:
            found[n] = last[p.pipe[j]]
    return found


def time(listing: Listing, machine: Machine | None = None) -> Timeline:
    """Play the listing in time. Raises ListingError E0814 on deadlock."""
    machine = machine or load(listing.machine)
    phases: list[PhaseRun] = []
    busy = dict.fromkeys(machine.pipes, 0.0)
    total, count = 0.0, 0
    for phase in listing.phases:
        # Core 0 has the most iterations, and every iteration takes the same time.
        p = plan(expand(phase, phase.iterations(0, machine.cores)), machine)
        run = Engine(p, machine).run()
        for pipe, cycles in _busy(p).items():
            busy[pipe] = busy.get(pipe, 0.0) + cycles
        phases.append(PhaseRun(p, run, total))
        total += run.cycles
        count += len(p.trace.order)
    return Timeline(listing, machine, tuple(phases), total, busy, count)


def _busy(p: Plan) -> dict[str, float]:
    found: dict[str, float] = {}
    for j, s in enumerate(p.trace.statics):
        if p.kinds[j] == WORK:
            pipe = s.instruction.pipe
            found[pipe] = found.get(pipe, 0.0) + p.occupancy[j] * s.count
    return found
