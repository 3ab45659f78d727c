"""Flags of a body without loops, in one walk over its trace for the orders and one for the event ids.

Both walks keep a clock per pipe: how many instructions of every pipe are known to have finished. What a statement
needs and its pipe's clock does not know becomes a flag from the last statement it needs, or a barrier. In a body
without loops flags of one pair of pipes never cross, so ids are dealt out as the text goes. Where all of a pair's ids
are in use, a wait that has passed in the text is answered by a flag back, so that its id may be set again; if no wait
has passed, two flags become one: set where the later was set, waited for where the earlier was waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from opc.machine.model import Machine
from opc.program.hazards import Trace
from passes.program._flags import Flag, Pair

Clock = tuple[int, ...]


@dataclass(slots=True)
class Straight:
    """``ids``: the event id of each flag. ``full``: statements with a barrier across all pipes in front."""

    ids: dict[Flag, int] = field(default_factory=dict)
    barriers: list[Flag] = field(default_factory=list)
    full: set[int] = field(default_factory=set)
    joined: dict[Pair, int] = field(default_factory=dict)
    answered: dict[Pair, int] = field(default_factory=dict)


class _Clocks:
    """What each pipe knows as the text goes on."""

    def __init__(self, source: Trace, machine: Machine) -> None:
        self.names = tuple(dict.fromkeys(source.pipes))
        self.ordered = [p not in machine.unordered_pipes for p in self.names]
        index = {p: n for n, p in enumerate(self.names)}
        self.pipe = [index[p] for p in source.pipes]
        self.count = [0] * len(self.names)
        self.clock: list[Clock] = [(0,) * len(self.names)] * len(self.names)
        self.after: list[Clock] = []  # by statement: what a flag set after it says

    def learn(self, pipe: int, known: Clock) -> None:
        self.clock[pipe] = tuple(map(max, self.clock[pipe], known))

    def stop(self, pipe: int) -> None:
        """A barrier: everything earlier on the pipe has finished."""
        self.clock[pipe] = _with(self.clock[pipe], pipe, self.count[pipe])

    def stop_all(self, pipe: int) -> None:
        """A barrier across all pipes just before the last statement, which ran on this pipe."""
        total = _with(tuple(self.count), pipe, self.count[pipe] - 1)
        self.clock = [tuple(map(max, row, total)) for row in self.clock]

    def run(self, pipe: int) -> None:
        """The next statement, on this pipe."""
        self.count[pipe] += 1
        said = _with(self.clock[pipe], pipe, self.count[pipe])
        if self.ordered[pipe]:
            self.clock[pipe] = said
        self.after.append(said)


def _with(clock: Clock, at: int, value: int) -> Clock:
    return (*clock[:at], value, *clock[at + 1 :])


def straight(source: Trace, machine: Machine) -> Straight:
    """Flags with ids and barriers for a trace that runs every statement once."""
    flags, barriers = orders(source, machine)
    deal = _Deal(source, machine, flags, barriers)
    for j in range(len(source.order)):
        deal.statement(j)
    return deal.found


def orders(source: Trace, machine: Machine) -> tuple[list[Flag], list[Flag]]:
    """The flags and barriers that the needs ask for, each of which is needed."""
    clocks = _Clocks(source, machine)
    index = {p: n for n, p in enumerate(clocks.names)}
    by_pipe: list[list[int]] = [[] for _ in clocks.names]
    flags, barriers = [], []
    for j, pipe in enumerate(clocks.pipe):
        wanted = [(by_pipe[index[q]][n], index[q], n) for q, n in source.needs[j]]
        # What stands later in the text may know of what stands earlier, never the other way round.
        for at, q, n in sorted(wanted, reverse=True):
            if clocks.clock[pipe][q] > n:
                continue
            names = clocks.names[q], clocks.names[pipe]
            if q == pipe:
                barriers.append(Flag(j, names[0], j, names[1], 0))
                clocks.stop(pipe)
            else:
                flags.append(Flag(at, names[0], j, names[1], 0))
                clocks.learn(pipe, clocks.after[at])
        by_pipe[pipe].append(j)
        clocks.run(pipe)
    return flags, barriers


@dataclass(slots=True)
class _Open:
    """A flag that is set and not yet waited for. ``first``, ``last``: earliest set and latest wait of what it joins."""

    flag: Flag
    number: int
    first: int
    last: int

    def span(self, other: _Open) -> int:
        """How far sets and waits would move in all if the two were one."""
        return other.flag.source - self.first + other.last - self.flag.target


@dataclass(slots=True)
class _Ids:
    """The ids of one pair of pipes. ``waited``: by id, the statements of the set and the wait of its last use."""

    open: list[_Open] = field(default_factory=list)
    waited: dict[int, tuple[int, int]] = field(default_factory=dict)


class _Deal:
    """Ids dealt out as the text goes."""

    def __init__(
        self, source: Trace, machine: Machine, flags: Sequence[Flag], barriers: Sequence[Flag]
    ) -> None:
        self.clocks = _Clocks(source, machine)
        self.index = {p: n for n, p in enumerate(self.clocks.names)}
        self.limit = machine.event_ids
        self.found = Straight(barriers=list(barriers))
        self.stops = {f.target for f in barriers}
        self.ids: dict[Pair, _Ids] = {}
        self.waits: dict[int, list[_Open]] = {}
        self.sets: dict[int, list[Flag]] = {}
        for f in flags:
            self.sets.setdefault(f.source, []).append(f)
        self.number: list[int] = []  # of each statement on its pipe

    def statement(self, j: int) -> None:
        """Go past one statement: its waits and barrier, itself, its sets."""
        clocks, pipe = self.clocks, self.clocks.pipe[j]
        for o in self.waits.pop(j, ()):
            ids = self.ids[o.flag.pair]
            ids.open.remove(o)
            ids.waited[o.number] = (o.flag.source, j)
            self.found.ids[o.flag] = o.number
            clocks.learn(pipe, clocks.after[o.flag.source])
        if j in self.stops:
            clocks.stop(pipe)
        self.number.append(clocks.count[pipe])
        clocks.run(pipe)
        for f in self.sets.pop(j, ()):
            self._set(f)

    def _set(self, f: Flag) -> None:
        ids = self.ids.setdefault(f.pair, _Ids())
        number = self._free(f, ids)
        if number is None and len(ids.open) < self.limit:
            self._answer(f, ids)
            number = self._free(f, ids)
        new = _Open(f, -1 if number is None else number, f.source, f.target)
        ids.open.append(new)
        self.waits.setdefault(f.target, []).append(new)
        if number is None:
            self._join(f.pair, ids)

    def _free(self, f: Flag, ids: _Ids) -> int | None:
        """An id that is not set and known not to be."""
        busy = {o.number for o in ids.open}
        known = self.clocks.after[f.source][self.index[f.then]]
        for n in range(self.limit):
            if n not in busy and (n not in ids.waited or known > self.number[ids.waited[n][1]]):
                return n
        return None

    def _answer(self, f: Flag, ids: _Ids) -> None:
        """Let the pipe that sets know of a wait that has passed: by a flag back, or a barrier across all pipes."""
        busy = {o.number for o in ids.open}
        oldest = min(at for n, (_, at) in ids.waited.items() if n not in busy)
        back = Flag(oldest, f.then, f.source, f.first, 0)
        number = self._between(back)
        clocks, pipe = self.clocks, self.index[f.first]
        # The wait stands before the statement that the flag follows, so what it says may be a little more.
        if number is None:
            self.found.full.add(f.source)
            clocks.stop_all(pipe)
        else:
            self.found.ids[back] = number
            self.found.answered[f.pair] = self.found.answered.get(f.pair, 0) + 1
            self.ids.setdefault(back.pair, _Ids()).waited[number] = (oldest, f.source)
            clocks.learn(pipe, clocks.after[oldest])
        said = _with(clocks.clock[pipe], pipe, clocks.count[pipe])
        clocks.after[f.source] = tuple(map(max, clocks.after[f.source], said))

    def _between(self, back: Flag) -> int | None:
        """An id that nobody uses from the set of ``back`` to here."""
        ids = self.ids.get(back.pair, _Ids())
        busy = {o.number for o in ids.open}
        known = self.clocks.after[back.source][self.index[back.then]]
        for n in range(self.limit):
            last = ids.waited.get(n)
            if n not in busy and (last is None or known > self.number[last[1]]):
                return n
        return None

    def _join(self, pair: Pair, ids: _Ids) -> None:
        """Make two neighbouring flags one; the new flag, which comes last, gets the id that this frees."""
        n = min(range(len(ids.open) - 1), key=lambda k: (ids.open[k].span(ids.open[k + 1]), k))
        early, late = ids.open[n], ids.open[n + 1]
        new = ids.open[-1]
        new.number = early.number
        both = _Open(replace(late.flag, target=early.flag.target), late.number, early.first, late.last)
        ids.open[n : n + 2] = [both]
        self.waits[late.flag.target].remove(late)
        same = self.waits[early.flag.target]
        same[same.index(early)] = both
        self.found.joined[pair] = self.found.joined.get(pair, 0) + 1
