"""Replay under random timings: what the proof says holds for all of them is tried on some.

Every delay and duration is drawn anew, and instructions take effect in the order in which they complete. A
listing that was proved safe gives the same bits every time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from opc.errors import Diagnostic, ListingError
from opc.machine import Machine, load
from opc.npu.engine import SET, WORK, Engine, Plan, Run, plan
from opc.npu.expand import expand
from opc.npu.functional import POISON, Core, GlobalMemory
from opc.npu.listing import Listing
from opc.npu.text import print_instruction
from opc.npu.timings import times

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any


def replay(
    listing: Listing, arrays: Mapping[str, Array], seed: int, machine: Machine | None = None
) -> dict[str, Array]:
    """The results under the random timing of ``seed``.

    Raises ListingError E0814 if that timing deadlocks and E0812 if it loses a flag.
    """
    import numpy as np

    machine = machine or load(listing.machine)
    memory = GlobalMemory(listing, arrays)
    random = Random(seed)
    with np.errstate(all="ignore"):
        for phase in listing.phases:
            for core in range(min(machine.cores, phase.extent)):
                trace = expand(phase, phase.iterations(core, machine.cores))
                p = plan(trace, machine)
                run = Engine(p, machine, random).run()
                _check_flags(run, p, core)
                actions = Core(trace, memory, machine).actions
                for j, k in _completed(run, p):
                    actions[j](k)
    return {name: memory.array(name) for name in memory.results}


def adversarial(
    listing: Listing, arrays: Mapping[str, Array], seeds: Iterable[int], machine: Machine | None = None
) -> list[dict[str, Array]]:
    """The results under one random timing per seed; a proved listing gives equal ones."""
    return [replay(listing, arrays, seed, machine) for seed in seeds]


def sweep(
    listing: Listing, arrays: Mapping[str, Array], columns: int, seed: int, machine: Machine
) -> list[int]:
    """Which of many random timings, drawn at once, give other bits than program order; none for a proved listing.

    Raises ListingError E0814 on deadlock and E0812 or E0813 if a timing loses a flag or leaves one set.
    """
    import numpy as np

    memory = GlobalMemory(listing, arrays)
    start = {name: blob.copy() for name, blob in memory.blobs.items()}
    top = {
        b.space: max(o + p.bytes for p in listing.buffers if p.space == b.space for o in p.offsets)
        for b in listing.buffers
    }
    parts = []
    for number, phase in enumerate(listing.phases):
        for core in range(min(machine.cores, phase.extent)):
            p = plan(expand(phase, phase.iterations(core, machine.cores)), machine)
            played = times(p, machine, columns, seed + 1009 * number + core)
            if played.left or played.lost.any():
                code, what = ("E0813", "never cleared") if played.left else ("E0812", "still set")
                raise ListingError(
                    Diagnostic(code, f"core {core} of phase {number} sets a flag that is {what}")
                )
            work = [n for n, j in enumerate(p.trace.order) if p.kinds[j] == WORK]
            orders = np.argsort(played.complete[work], axis=0, kind="stable")
            parts.append((Core(p.trace, memory, machine), steps(p), orders))

    def results(column: int) -> list[bytes]:
        for name, blob in memory.blobs.items():
            blob[...] = start[name]
        for core, program, orders in parts:
            for space, used in top.items():
                core.local[space][:used] = POISON
            for n in orders[:, column] if column >= 0 else range(len(program)):
                j, k = program[n]
                core.actions[j](k)
        return [memory.array(name).tobytes() for name in memory.results]

    with np.errstate(all="ignore"):
        expected = results(-1)
        return [c for c in range(columns) if results(c) != expected]


def steps(p: Plan) -> list[tuple[int, int]]:
    """(static instruction, execution) of the work, in program order."""
    count = [0] * len(p.kinds)
    found = []
    for j in p.trace.order:
        if p.kinds[j] == WORK:
            found.append((j, count[j]))
        count[j] += 1
    return found


def _completed(run: Run, p: Plan) -> list[tuple[int, int]]:
    """(static instruction, execution) in order of completion."""
    count = [0] * len(p.kinds)
    found = []
    for position, j in enumerate(p.trace.order):
        if p.kinds[j] == WORK:
            found.append((run.complete[position], position, j, count[j]))
            count[j] += 1
    return [(j, k) for _, _, j, k in sorted(found)]


def _check_flags(run: Run, p: Plan, core: int) -> None:
    waited = {first for first, _ in run.signals}
    left = [n for n, j in enumerate(p.trace.order) if p.kinds[j] == SET and n not in waited]
    for code, positions, what in (("E0812", run.lost, "still set"), ("E0813", left, "never cleared")):
        for position in positions[:1]:
            first = position if isinstance(position, int) else position[0]
            text = print_instruction(p.trace.statics[p.trace.order[first]].instruction)
            raise ListingError(Diagnostic(code, f"core {core}: '{text}' sets a flag that is {what}"))
