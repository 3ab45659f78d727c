"""Which sets and waits of a phase belong together, and the phase without some of its instructions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from opc.machine.model import Machine
from opc.npu.engine import BARRIER, BARRIER_ALL, SET, WAIT, plan
from opc.npu.expand import expand
from opc.npu.listing import Instruction, Phase, Statement


def pairs(phase: Phase, machine: Machine) -> list[tuple[int, ...]]:
    """Numbers (in text order) of the instructions of each flag, primes and drains included, and of each barrier.

    The k-th set of an id meets its k-th wait; instructions that meet in some iteration belong together.
    """
    p = plan(expand(phase, phase.iterations(0, machine.cores)), machine)
    met: dict[int, tuple[list[int], list[int]]] = {}
    executions = [0] * len(p.kinds)
    for j in p.trace.order:
        if p.kinds[j] in (SET, WAIT):
            flag = p.flags[j][executions[j] if len(p.flags[j]) > 1 else 0]
            met.setdefault(flag, ([], []))[p.kinds[j] == WAIT].append(j)
            executions[j] += 1
    group = {j: {j} for sets, waits in met.values() for j in (*sets, *waits)}
    for sets, waits in met.values():
        for a, b in zip(sets, waits, strict=False):
            if group[a] is not group[b]:
                group[a] |= group[b]
                group |= dict.fromkeys(group[b], group[a])
    flags = {min(found): tuple(sorted(found)) for found in group.values()}
    barriers = {j: (j,) for j, kind in enumerate(p.kinds) if kind in (BARRIER, BARRIER_ALL)}
    return [found for _, found in sorted((flags | barriers).items())]


def without(phase: Phase, gone: Collection[int]) -> Phase:
    """The phase without the instructions of these numbers."""
    return replace(phase, body=_kept(phase.body, gone, 0)[0])


def _kept(
    body: tuple[Statement, ...], gone: Collection[int], first: int
) -> tuple[tuple[Statement, ...], int]:
    found: list[Statement] = []
    for s in body:
        if not isinstance(s, Instruction):
            inner, first = _kept(s.body, gone, first)
            found.append(replace(s, body=inner))
            continue
        if first not in gone:
            found.append(s)
        first += 1
    return tuple(found), first
