"""Listings with one flag or barrier deleted, moved or renumbered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from opc.affine import Affine
from opc.machine import Machine
from opc.npu.listing import Instruction, Loop, Phase, Statement
from opc.npu.pairs import pairs, without

MOVES = (1, 2, 4)
Body = tuple[Statement, ...]


def mutants(phase: Phase, machine: Machine) -> Iterator[tuple[str, Phase]]:
    """Every edit of every sync instruction, then each flag without any of its sets and waits."""
    for what, body in _edits(phase.body, machine.event_ids):
        yield what, replace(phase, body=body)
    for pair in pairs(phase, machine):
        if len(pair) > 1:
            yield f"delete the pair {pair}", without(phase, pair)


def _edits(body: Body, ids: int) -> Iterator[tuple[str, Body]]:
    for n, s in enumerate(body):
        if isinstance(s, Loop):
            for what, inner in _edits(s.body, ids):
                yield f"{what} in loop {s.var}", (*body[:n], replace(s, body=inner), *body[n + 1 :])
        elif s.flag is not None:
            name = f"{s.mnemonic} {','.join(map(str, s.flag))} at {n}"
            yield f"delete {name}", (*body[:n], *body[n + 1 :])
            rest = (*body[:n], *body[n + 1 :])
            for to in (n + d * side for d in MOVES for side in (1, -1)):
                if 0 <= to <= len(rest):
                    yield f"move {to - n:+d} {name}", (*rest[:to], s, *rest[to:])
            yield from ((f"{what} {name}", (*body[:n], i, *body[n + 1 :])) for what, i in _numbers(s, ids))


def _numbers(i: Instruction, ids: int) -> Iterator[tuple[str, Instruction]]:
    """The same set or wait with other event ids."""
    if i.flag is None or i.mnemonic == "pipe_barrier":
        return
    source, target, event = i.flag
    for n in range(1, ids):
        moved = Affine((), (event.const + n) % ids) if event.is_const else event + n
        flag = (source, target, moved)
        yield f"renumber {n:+d}", replace(i, flag=flag, modulo=0 if event.is_const else ids)
    if not event.is_const:
        yield "fix the id of", replace(i, flag=(source, target, Affine()), modulo=0)
