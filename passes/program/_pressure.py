"""How many event ids a program wants of each pair of pipes, how many there are, and what had to give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from opc.machine.model import Machine
from opc.program.hazards import trace
from opc.program.ir import Loop, Program, Stmt
from passes.program._flags import Body, Pair, Solver
from passes.program._straight import orders, straight
from passes.program.insert_sync import runs_straight, solved

Use = tuple[Pair, int, int, int]  # pair, first point, last point, ids


@dataclass(frozen=True, slots=True)
class Pressure:
    """Of one pair of pipes: ids wanted at once if there were any number, flags wanted and flags that were set.

    ``answered``: flags back that free an id. Fewer flags set than wanted means that some were joined.
    """

    pair: Pair
    wanted: int
    available: int
    flags: int
    kept: int
    answered: int = 0


def pressure(program: Program, machine: Machine) -> tuple[Pressure, ...]:
    """The most that any phase wants, by pair; sync instructions of the program are not looked at."""
    worst: dict[Pair, Pressure] = {}
    for s in program.body:
        if isinstance(s, Loop):
            phase = Loop(s.var, s.extent, _bare(s.body), True) if s.parallel else Loop("core", 1, (s,), True)
            for found in _of_phase(phase, program, machine):
                known = worst.get(found.pair)
                if known is None or found.wanted > known.wanted:
                    worst[found.pair] = found
    return tuple(worst[pair] for pair in sorted(worst))


def _bare(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    kept: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            kept.append(replace(s, body=_bare(s.body)))
        elif s.opcode_class != "sync":
            kept.append(s)
    return tuple(kept)


def _of_phase(loop: Loop, program: Program, machine: Machine) -> Iterator[Pressure]:
    answered: dict[Pair, int] = {}
    if runs_straight(loop, program):
        source = trace(replace(loop, extent=1), program, machine)
        flags, _ = orders(source, machine)
        uses = [(f.pair, f.source, f.target, 1) for f in flags]
        found = straight(source, machine)
        answered = found.answered
        kept = Counter(f.pair for f in flags) - Counter(found.joined)
    else:
        uses = list(_uses(Solver(program, machine).solve(loop.body, (loop,), {})))
        root, _, _ = solved(loop, program, machine)
        kept = Counter(f.pair for body in root.nest() for f in body.flags)
    wanted = Counter(pair for pair, *_ in uses)
    for pair in wanted:
        peak = _peak(u for u in uses if u[0] == pair)
        yield Pressure(pair, peak, machine.event_ids, wanted[pair], kept[pair], answered.get(pair, 0))


def _uses(root: Body) -> Iterator[Use]:
    """From where to where each flag holds its ids; one inside a loop holds them from before the loop to its end."""
    for f in root.flags:
        yield f.pair, 2 * f.source + 1, 2 * f.target, f.ids
    for j, child in root.children.items():
        for body in child.nest():
            for f in body.flags:
                yield f.pair, 2 * j - 1, 2 * j + 2, f.ids


def _peak(uses: Iterable[Use]) -> int:
    changes: list[tuple[int, int]] = []
    for _, first, last, ids in uses:
        changes += [(first, ids), (last, -ids)]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
