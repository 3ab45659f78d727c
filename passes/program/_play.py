"""What one core's flags and barriers order, and what would remain ordered without one of them.

A clock per pipe counts how many instructions of each pipe are known to have finished. Clocks move at waits and
barriers only, so a trace shrinks to its sync instructions, each with what must have finished before the next of its
pipe. To try a trace without one pair, play it from where the pair first acts to where the clocks agree again with those
of the whole, or something that is needed is no longer known to have finished: usually a few instructions later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from opc.machine.model import Machine
from opc.program.hazards import Trace
from opc.program.ir import Instr
from opc.program.unroll import Ranges, values

ALL = "ALL"
SET, WAIT, BARRIER, BARRIER_ALL = range(4)
_KINDS = {"sync.set_flag": SET, "sync.wait_flag": WAIT, "sync.barrier": BARRIER}
Clock = tuple[int, ...]
Key = tuple[str, str, int]
Pair = frozenset[
    int
]  # numbers of texts: sets and waits that meet, primes and drains included, or one barrier


@dataclass(slots=True)
class Event:
    """A sync instruction as it runs. ``total``: how many instructions each pipe has had, at a barrier across all.
    ``before``: the set of a wait; of a set the last wait for the same id (-1: none). ``asks``: (pipe, other pipe,
    number there) of what must have finished when the pipe goes on.
    """

    kind: int
    text: int
    pipe: int
    target: int
    number: int
    before: int = -1
    total: Clock = ()
    asks: tuple[tuple[int, int, int], ...] = ()


@dataclass(slots=True)
class Change:
    """How the clocks go without a pair, where they differ from those of the whole."""

    states: dict[int, list[Clock]] = field(default_factory=dict)
    snapshots: dict[int, Clock] = field(default_factory=dict)


class Play:
    """One core's trace. ``safe``: everything needed is ordered, and no flag is set twice or left set."""

    def __init__(self, source: Trace, machine: Machine) -> None:
        pipes = [p for p in machine.pipes if p in set(source.pipes)]
        reader = _Reader(source, pipes, machine.event_ids)
        self.events = reader.events
        self.dropped: set[int] = set()
        self.of_text: dict[int, list[int]] = {}
        for n, e in enumerate(self.events):
            self.of_text.setdefault(e.text, []).append(n)
        self.states: list[list[Clock]] = [[(0,) * len(pipes)] * len(pipes)]
        self.snapshots: dict[int, Clock] = {}
        self.safe = reader.matched and self._whole()

    def meetings(self) -> set[tuple[int, int]]:
        """(text of a set, text of a wait) that meet."""
        return {(self.events[e.before].text, e.text) for e in self.events if e.kind == WAIT}

    def without(self, pair: Pair) -> Change | None:
        """How the clocks go without the pair; None if something needs it."""
        change = Change()
        at = 0
        for n in sorted(n for text in pair for n in self.of_text.get(text, ())):
            if n >= at:
                at = self._part(n, pair, change)
                if at < 0:
                    return None
        return change

    def commit(self, pair: Pair, change: Change) -> None:
        """Go on without the pair."""
        self.dropped |= pair
        self.snapshots |= change.snapshots
        for n, state in change.states.items():
            self.states[n] = state

    def _whole(self) -> bool:
        rows = list(self.states[0])
        for n, e in enumerate(self.events):
            if not self._step(n, e, rows, frozenset(), self.snapshots) or not _answered(e, rows):
                return False
            self.states.append(list(rows))
        return True

    def _part(self, start: int, pair: Pair, change: Change) -> int:
        """Play without the pair until all is as with it; where that is, or -1 if something needs the pair."""
        rows = list(self.states[start])
        differing = 0
        for n in range(start, len(self.events)):
            e = self.events[n]
            if e.text not in pair and e.text not in self.dropped:
                differing -= e.kind == WAIT and e.before in change.snapshots
                if not self._step(n, e, rows, pair, change.snapshots):
                    return -1
                if e.kind == SET and change.snapshots[n] == self.snapshots[n]:
                    del change.snapshots[n]
                differing += e.kind == SET and n in change.snapshots
            if not _answered(e, rows):
                return -1
            if not differing and rows == self.states[n + 1]:
                return n + 1
            change.states[n + 1] = list(rows)
        return len(self.events)

    def _step(self, n: int, e: Event, rows: list[Clock], pair: Pair, snapshots: dict[int, Clock]) -> bool:
        """Move the clocks; False if a flag may still be set."""
        p = e.pipe
        if e.kind == WAIT:
            known = snapshots.get(e.before) or self.snapshots[e.before]
            rows[p] = tuple(map(max, rows[p], known))
        elif e.kind == BARRIER_ALL:
            rows[:] = [e.total] * len(rows)
        else:
            row = rows[p]
            done = (*row[:p], e.number + 1, *row[p + 1 :])
            if e.kind == BARRIER:
                rows[p] = done
                return True
            snapshots[n] = done
            last = self._last_wait(e, pair)
            return last < 0 or row[e.target] > self.events[last].number
        return True

    def _last_wait(self, e: Event, pair: Pair) -> int:
        last = e.before
        while last >= 0 and (self.events[last].text in pair or self.events[last].text in self.dropped):
            last = self.events[self.events[last].before].before
        return last


def _answered(e: Event, rows: list[Clock]) -> bool:
    return all(rows[p][q] > number for p, q, number in e.asks)


class _Reader:
    """The sync instructions of a trace; ``matched``: each wait follows its set, and no set is left."""

    def __init__(self, source: Trace, pipes: list[str], ids: int) -> None:
        self.events: list[Event] = []
        self.matched = True
        self._index = {p: n for n, p in enumerate(pipes)}
        self._count = [0] * len(pipes)
        self._since = [-1] * len(pipes)  # the last event that moved a pipe's clock
        self._sets: dict[Key, deque[int]] = {}
        self._waits: dict[Key, int] = {}
        asks: list[dict[tuple[int, int], int]] = []
        flags = [_flags(i, r, ids) for i, r in zip(source.texts, source.ranges, strict=True)]
        executions = [0] * len(source.texts)
        for position, j in enumerate(source.order):
            kind = _KINDS.get(source.texts[j].opcode)
            if kind is not None:
                self._event(kind, j, source.pipes[j], flags[j], executions[j])
                asks.append({})
                executions[j] += 1
                continue
            pipe = self._index[source.pipes[j]]
            self._count[pipe] += 1
            for name, number in source.needs[position]:
                self.matched = self.matched and self._since[pipe] >= 0
                key = (pipe, self._index[name])
                known = asks[self._since[pipe]] if asks else {}
                known[key] = max(number, known.get(key, -1))
        for e, found in zip(self.events, asks, strict=True):
            e.asks = tuple((p, q, number) for (p, q), number in found.items())
        self.matched = self.matched and not any(self._sets.values())

    def _event(self, kind: int, text: int, pipe: str, flags: list[Key], execution: int) -> None:
        n = len(self.events)
        if kind == BARRIER_ALL or pipe == ALL:
            self.events.append(Event(BARRIER_ALL, text, 0, 0, 0, -1, tuple(self._count)))
            self._since = [n] * len(self._since)
            return
        p = self._index[pipe]
        e = Event(kind, text, p, p, self._count[p])
        self._count[p] += 1
        self.events.append(e)
        if kind != SET:
            self._since[p] = n
        if kind == BARRIER:
            return
        key = flags[execution if len(flags) > 1 else 0]
        e.target = self._index.get(key[1], p)
        if kind == SET:
            e.before = self._waits.get(key, -1)
            self._sets.setdefault(key, deque()).append(n)
            return
        self._waits[key] = n
        waiting = self._sets.get(key)
        self.matched = self.matched and bool(waiting)
        e.before = waiting.popleft() if waiting else -1


def _flags(i: Instr, ranges: Ranges, ids: int) -> list[Key]:
    """The flag at each execution; one entry if it never changes."""
    if i.flag is None or i.op == "barrier":
        return []
    source, target, form = i.flag
    numbers = [form.const] if form.is_const else values(form, ranges)
    return [(source, target, n % max(1, ids)) for n in numbers]
