"""Takes out flags and barriers that the others make needless.

The solver works on loops as a whole and errs towards a dependence, so it may add a pair that no execution needs. Here
every pair is tried on the unrolled trace, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.hazards import alike, trace
from opc.program.ir import Loop, Program, Stmt, instructions
from opc.program.unroll import length
from passes.program._play import ALL, Pair, Play

LONGEST = 200_000  # instructions of a trace; of longer ones every pair stays


def prune(loop: Loop, program: Program, machine: Machine) -> Loop:
    """The parallel loop without the pairs that can go one after the other; afterwards none can."""
    cores = range(min(1 if alike(loop, program) else machine.cores, loop.extent))
    steps = len(range(0, loop.extent, machine.cores)) * length(loop.body)
    if steps * len(cores) > LONGEST:
        return loop
    plays = [Play(trace(loop, program, machine, core), machine) for core in cores]
    if not all(p.safe for p in plays):
        return loop  # not the place to complain: the proof will name the race
    pairs, tried = _pairs(loop, plays), -1
    while tried != len(pairs):
        tried = len(pairs)
        # Without one flag another of the same id may become needless, so a sweep that finds something is repeated.
        pairs = [p for p in pairs if not _drop(p, plays)]
    gone = plays[0].dropped
    return Loop(loop.var, loop.extent, _without(loop.body, gone, 0)[0], True) if gone else loop


def _drop(pair: Pair, plays: Sequence[Play]) -> bool:
    changes = []
    for play in plays:
        change = play.without(pair)
        if change is None:
            return False
        changes.append(change)
    for play, change in zip(plays, changes, strict=True):
        play.commit(pair, change)
    return True


def _pairs(loop: Loop, plays: Sequence[Play]) -> list[Pair]:
    """Every barrier, and every flag with all its sets and waits; what is likely needless or dear comes first."""
    group: dict[int, int] = {}

    def find(text: int) -> int:
        while group.setdefault(text, text) != text:
            text = group[text]
        return text

    for play in plays:
        for first, then in sorted(play.meetings()):
            group[find(first)] = find(then)
    members: dict[int, list[int]] = {}
    for text in sorted(group):
        members.setdefault(find(text), []).append(text)
    flags = sorted(members.values(), key=lambda texts: (-len(texts), -texts[0]))
    barriers = [
        (i.flag != (ALL, ALL, Affine()), n)
        for n, (i, _) in enumerate(instructions(loop.body))
        if i.opcode == "sync.barrier"
    ]
    return [frozenset([n]) for _, n in sorted(barriers)] + [frozenset(texts) for texts in flags]


def _without(body: Sequence[Stmt], gone: set[int], first: int) -> tuple[tuple[Stmt, ...], int]:
    kept: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            inner, first = _without(s.body, gone, first)
            kept.append(Loop(s.var, s.extent, inner, s.parallel))
            continue
        if first not in gone:
            kept.append(s)
        first += 1
    return tuple(kept), first
