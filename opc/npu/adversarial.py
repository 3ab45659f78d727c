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
from opc.npu.functional import Core, GlobalMemory
from opc.npu.listing import Listing
from opc.npu.text import print_instruction

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
