"""Memory of a result that serves for something else until the result is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from opc.program.ir import Buffer, Program
from opc.program.liveness import phases
from opc.program.memory import BLOB_ALIGN, round_up

PACKED = "packed"  # the blob of that name, as a guest; no phase comes before prepare, which writes it
_PREPARE = -1


class Guest(NamedTuple):
    """What wants memory from one phase to another, both included."""

    name: str
    size: int
    first: int
    last: int
    start: int = 0  # in the lender

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


class Room(NamedTuple):
    """Bytes of a lender from ``start`` on that nothing needs in some phase."""

    lender: str
    start: int
    size: int


def loans(program: Program, touched: Sequence[frozenset[str]] | None = None) -> dict[str, Room]:
    """By guest, a workspace buffer or ``PACKED``, where it lies in a result that is written later.

    The largest guest chooses first, and takes the smallest result with room for it. Packed parameters begin where
    their lender begins.
    """
    found = phases(program) if touched is None else touched
    lenders = _lenders(program, found)
    taken: dict[str, list[Guest]] = {name: [] for name in lenders}
    given: dict[str, Room] = {}
    for guest in sorted(_guests(program, found), key=lambda g: (-g.size, g.name)):
        fitting = [
            (b.slot_bytes, name, start)
            for name, (b, written) in lenders.items()
            if guest.last < written and (start := _place(guest, b.slot_bytes, taken[name])) is not None
        ]
        if fitting:
            _, name, start = min(fitting)
            taken[name].append(guest._replace(start=start))
            given[guest.name] = Room(name, start, guest.size)
    return given


def rooms(program: Program) -> list[Room | None]:
    """By phase, the most that a result which is written later can lend beside what it holds already."""
    found = phases(program)
    lenders = _lenders(program, found)
    held = {name: list(_held(program, found, name)) for name in lenders}
    answer: list[Room | None] = []
    for number in range(len(found)):
        free = []
        for name, (b, written) in lenders.items():
            end = max((g.end for g in held[name] if g.first <= number <= g.last), default=0)
            if written > number and b.slot_bytes > (start := round_up(end, BLOB_ALIGN)):
                free.append(Room(name, start, b.slot_bytes - start))
        answer.append(max(free, key=lambda r: (r.size, r.lender), default=None))
    return answer


def problems(program: Program) -> Iterator[str]:
    """What is wrong with the loans of a program, in words."""
    lent = [b for b in program.buffers if b.lender]
    if not lent:
        return
    found = phases(program)
    lenders = _lenders(program, found)
    for b in lent:
        if b.kind not in ("workspace", "packed") or b.lender not in lenders:
            yield f"'{b.name}' of kind {b.kind} cannot lie in '{b.lender}'"
        elif b.kind == "workspace" and not b.offsets:
            yield f"'{b.name}' in '{b.lender}' has no offset"
    for name in sorted({b.lender for b in lent} & lenders.keys()):
        lender, written = lenders[name]
        held = list(_held(program, found, name))
        for guest in held:
            if guest.end > lender.slot_bytes:
                yield f"'{guest.name}' ends at {guest.end}, '{name}' has {lender.slot_bytes}"
            if guest.last >= written:
                yield f"'{guest.name}' lives in '{name}' when that is written"
        for n, one in enumerate(held):
            for other in held[n + 1 :]:
                if _meet(one, other) and one.start < other.end and other.start < one.end:
                    yield f"'{one.name}' and '{other.name}' share bytes of '{name}' while both live"


def _lenders(program: Program, found: Sequence[frozenset[str]]) -> dict[str, tuple[Buffer, int]]:
    """Results and the phase in which each is written first."""
    written = {b.name: _first(b.name, found) for b in program.buffers if b.kind == "output"}
    return {b.name: (b, n) for b in program.buffers if (n := written.get(b.name)) is not None}


def _first(name: str, found: Sequence[frozenset[str]]) -> int | None:
    return next((n for n, names in enumerate(found) if name in names), None)


def _last(names: Iterable[str], found: Sequence[frozenset[str]]) -> int | None:
    wanted = set(names)
    return max((n for n, touched in enumerate(found) if not wanted.isdisjoint(touched)), default=None)


def _guests(program: Program, found: Sequence[frozenset[str]]) -> Iterator[Guest]:
    """All that could lie in a result."""
    packed = [b for b in program.buffers if b.kind == "packed"]
    last = _last((b.name for b in packed), found)
    if last is not None:
        ends = [round_up(b.slot_bytes, BLOB_ALIGN) for b in packed]
        size = max([sum(ends), *(b.offsets[0] + b.slot_bytes for b in packed if b.offsets)])
        yield Guest(PACKED, size, _PREPARE, last)
    for b in program.buffers:
        first = _first(b.name, found) if b.kind == "workspace" else None
        if first is not None:
            yield Guest(b.name, b.slot_bytes, first, _last([b.name], found) or first)


def _held(program: Program, found: Sequence[frozenset[str]], lender: str) -> Iterator[Guest]:
    """What lies in a result as the buffers say."""
    inside = [b for b in program.buffers if b.lender == lender]
    starts = {b.name: b.offsets[0] for b in inside if b.kind == "workspace" and b.offsets}
    packed = any(b.kind == "packed" for b in inside)
    for guest in _guests(program, found):
        if guest.name in starts:
            yield guest._replace(start=starts[guest.name])
        elif guest.name == PACKED and packed:
            yield guest


def _meet(a: Guest, b: Guest) -> bool:
    return a.first <= b.last and b.first <= a.last


def _place(guest: Guest, room: int, taken: Sequence[Guest]) -> int | None:
    """The first place for a guest beside those that it meets; None where there is none."""
    start = 0
    for other in sorted((g for g in taken if _meet(g, guest)), key=lambda g: g.start):
        if guest.name != PACKED and start + guest.size <= other.start:
            break
        start = max(start, round_up(other.end, BLOB_ALIGN))
    if guest.name == PACKED and start:
        return None
    return start if start + guest.size <= room else None
