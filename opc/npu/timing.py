"""Timing simulation: the busiest core's timeline, phase after phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from opc.machine import Machine, load
from opc.npu.engine import WORK, Engine, Plan, Run, plan
from opc.npu.expand import expand
from opc.npu.listing import Instruction, Listing
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
    """A flag: set on ``source`` at ``set_time``, cleared on ``target`` at ``wait_time``."""

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
        for phase in self.phases:
            p, run, at = phase.plan, phase.run, phase.offset
            texts: dict[int, str] = {}
            for n, j in enumerate(p.trace.order):
                if p.kinds[j] != WORK:
                    continue
                i = p.trace.statics[j].instruction
                text = texts.setdefault(j, print_instruction(i))
                start = at + run.start[n]
                yield Event(
                    start, start + p.occupancy[j], at + run.complete[n], i.pipe, i.mnemonic, i.line, text
                )

    def signals(self) -> Iterator[Signal]:
        """Every flag set and waited for."""
        for phase in self.phases:
            p, run, at = phase.plan, phase.run, phase.offset
            for set_at, wait_at in run.signals:
                i: Instruction = p.trace.statics[p.trace.order[set_at]].instruction
                assert i.flag is not None
                name = f"{i.flag[0]}->{i.flag[1]} {i.flag[2]}"
                yield Signal(
                    i.flag[0], at + run.complete[set_at], i.flag[1], at + run.complete[wait_at], name
                )


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
