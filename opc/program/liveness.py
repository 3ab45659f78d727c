"""Live ranges of buffers over the structured program.

Instructions are numbered in program order. A buffer is occupied at an instruction that touches it, and
wherever some element of it may still be read before it is written again. Two buffers may share bytes when
they are never occupied together.

Elements are tracked as boxes. Forwards, ``_Summaries`` finds what every statement surely writes and what it
may read from before; backwards, ``_Backward`` carries what is still needed, around the back edges of loops
too. Anything undecided counts as needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from opc.affine import Affine
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt, instructions
from opc.program.opcodes import OPCODES
from opc.program.regions import (
    Region,
    add_region,
    covers,
    first_reads,
    has_no_holes,
    remaining,
    swept_read,
    swept_writes,
    written_before,
)
from opc.program.rewrite import map_accesses, map_instrs

Extents = Mapping[str, int]
Regions = dict[str, list[Region]]  # by buffer


@dataclass(frozen=True, slots=True)
class LiveRange:
    """Positions of instructions, both inclusive."""

    first: int
    last: int

    def overlaps(self, other: LiveRange) -> bool:
        return self.first <= other.last and other.first <= self.last


Lives = tuple[LiveRange, ...]  # disjoint, in program order


def live_together(a: Lives, b: Lives) -> bool:
    """Whether there is an instruction at which both live."""
    if not a or not b or a[-1].last < b[0].first or b[-1].last < a[0].first:
        return False
    return any(x.overlaps(y) for x in a for y in b)


@dataclass(frozen=True, slots=True)
class Liveness:
    """``ranges``: by buffer. ``homes``: the loops around a local buffer's whole life, outermost first;
    each iteration of the innermost starts a new life, so it may use another slot.
    """

    ranges: dict[str, Lives]
    homes: dict[str, tuple[Loop, ...]]


def live_ranges(program: Program, only: Collection[str] | None = None) -> dict[str, Lives]:
    """The lives of every buffer, or of some; memory buffers live for whole top-level statements."""
    return liveness(program, only).ranges


def liveness(program: Program, only: Collection[str] | None = None) -> Liveness:
    """Live ranges and homes of every buffer, or of ``only`` some."""
    # Memory lives for whole statements: only local buffers are worth following.
    followed = [b for b in program.buffers if only is None or b.name in only]
    summaries = _Summaries({b.name: b for b in followed if b.kind == "local"})
    summaries.sequence(program.body, {}, ())
    backward = _Backward(summaries)
    backward.sequence(program.body, {}, (), {}, sum(map(_size, program.body)))
    ranges = {b.name: tuple(reversed(backward.lives.get(b.name, []))) for b in followed}
    position = 0
    memory: dict[str, LiveRange] = {}
    for stmt in program.body:
        last = position + _size(stmt) - 1
        for name in touched(stmt):
            memory[name] = LiveRange(memory.get(name, LiveRange(position, last)).first, last)
        position = last + 1
    for b in program.buffers:
        if b.kind != "local":
            ranges[b.name] = (memory[b.name],) if b.name in memory else ()
    homes = {b.name: summaries.homes.get(b.name, ()) for b in program.buffers if b.kind == "local"}
    return Liveness(ranges, homes)


def _size(stmt: Stmt) -> int:
    return 1 if isinstance(stmt, Instr) else sum(map(_size, stmt.body))


def touched(stmt: Stmt) -> frozenset[str]:
    """Names of the buffers that a statement accesses."""
    return frozenset(a.buffer for i, _ in instructions((stmt,)) for a in (*i.dst, *i.sources))


def slot_name(name: str, slot: int) -> str:
    """What ``split_slots`` calls a slot; no buffer of a program can have such a name."""
    return f"{name}{{{slot}}}"


def split_slots(program: Program, only: Collection[str] | None = None) -> Program:
    """Every slot a buffer of its own, for buffers whose accesses all have a known slot: each slot then has
    its own lives. ``only`` some buffers, if given.
    """
    count = {b.name: b.slots for b in program.buffers if b.slots > 1 and (only is None or b.name in only)}
    if not count:
        return program
    for i, loops in instructions(program.body):
        fixed = {loop.var: 0 for loop in loops if loop.extent == 1}
        for a in (*i.dst, *i.sources):
            slots = count.get(a.buffer, 1)
            if any(c % slots for _, c in a.slot.substitute(fixed).terms):
                del count[a.buffer]

    def access(a: Access) -> Access:
        slots = count.get(a.buffer)
        return a if slots is None else Access(slot_name(a.buffer, a.slot.const % slots), a.index)

    buffers: list[Buffer] = []
    for b in program.buffers:
        numbers = range(count.get(b.name, 0))
        buffers += [replace(b, name=slot_name(b.name, n), slots=1, offsets=()) for n in numbers] or [b]
    body = map_instrs(program.body, lambda i: map_accesses(i, access))
    return replace(program, buffers=tuple(buffers), body=body)


def phases(program: Program) -> list[frozenset[str]]:
    """Buffers touched per phase: a parallel loop, or a run of top-level statements that core 0 executes.

    Local buffers keep nothing from one phase to the next.
    """
    found: list[frozenset[str]] = []
    run_goes_on = False
    for stmt in program.body:
        parallel = isinstance(stmt, Loop) and stmt.parallel
        if run_goes_on and not parallel:
            found[-1] |= touched(stmt)
        else:
            found.append(touched(stmt))
        run_goes_on = not parallel
    return found


@dataclass(slots=True)
class _Summary:
    """``exposed``: what may be read from before the statement; ``written``: what it surely writes."""

    exposed: Regions = field(default_factory=dict)
    written: Regions = field(default_factory=dict)
    touched: dict[str, None] = field(default_factory=dict)  # of the buffers that are followed


Path = tuple[int, ...]  # positions in the bodies from the top


class _Summaries:
    """Forward: a summary per statement and per loop body (the path of the loop, then -1)."""

    def __init__(self, table: Mapping[str, Buffer]) -> None:
        self.table = table
        self.found: dict[Path, _Summary] = {}
        self.homes: dict[str, tuple[Loop, ...]] = {}

    def sequence(self, body: tuple[Stmt, ...], extents: Extents, path: Path) -> _Summary:
        total = _Summary()
        counts: dict[str, int] = {}
        for n, stmt in enumerate(body):
            here = (*path, n)
            part = self.instr(stmt) if isinstance(stmt, Instr) else self.loop(stmt, extents, here)
            self.found[here] = part
            for name, reads in part.exposed.items():
                written = total.written.get(name, [])
                still = [r for r in reads if remaining(r, written, extents)]
                if still:
                    total.exposed.setdefault(name, []).extend(still)
            for name, regions in part.written.items():
                for region in regions:
                    add_region(total.written.setdefault(name, []), region)
            for name in part.touched:
                counts[name] = counts.get(name, 0) + 1
        total.touched = dict.fromkeys(counts)
        for name, count in counts.items():
            if count > 1:
                # One iteration of a deeper loop does not hold the whole life.
                self.homes.pop(name, None)
        return total

    def loop(self, loop: Loop, extents: Extents, path: Path) -> _Summary:
        inner = {**extents, loop.var: loop.extent}
        body = self.sequence(loop.body, inner, path)
        self.found[(*path, -1)] = body
        for name in body.touched.keys() - body.exposed.keys():
            self.homes[name] = (loop, *self.homes.get(name, ()))
        result = _Summary(touched=body.touched)
        for name, regions in body.exposed.items():
            swept = [r for x in regions for r in _from_before(x, body.written.get(name, []), loop, inner)]
            before = [r for x in swept if (r := self.inside(name, x)) is not None]
            if before:
                result.exposed[name] = before
        for name, regions in body.written.items():
            for region in regions:
                for swept_region in swept_writes(region, loop):
                    add_region(result.written.setdefault(name, []), swept_region)
        return result

    def inside(self, name: str, region: Region) -> Region | None:
        """A read less what it takes from outside the buffer, where a copy fills."""
        return region.inside(self.table[name].shape)

    def instr(self, i: Instr) -> _Summary:
        result = _Summary()
        dims = i.extents
        for a in (s for s in i.sources if s.buffer in self.table):
            read = self.inside(a.buffer, Region.of(a, dims, self.table[a.buffer].slots))
            if read is not None:
                result.exposed.setdefault(a.buffer, []).append(read)
            result.touched[a.buffer] = None
        for a in (d for d in i.dst if d.buffer in self.table):
            result.touched[a.buffer] = None
            slots = self.table[a.buffer].slots
            if OPCODES[i.opcode].reduces and i.init != Affine():
                old = Region.of(a, dims, slots, unless=i.init)
                result.exposed.setdefault(a.buffer, []).append(old)
            if has_no_holes(a, dims):
                result.written.setdefault(a.buffer, []).append(Region.of(a, dims, slots))
        return result


class _Backward:
    """Backward: what is needed after every instruction; ``lives`` are collected last first."""

    def __init__(self, summaries: _Summaries) -> None:
        self.summaries = summaries
        self.lives: dict[str, list[LiveRange]] = {}

    def sequence(
        self, body: tuple[Stmt, ...], extents: Extents, path: Path, needed: Regions, end: int
    ) -> None:
        """Walk a body whose last instruction is before ``end``; ``needed`` is what is needed after it."""
        for n in range(len(body) - 1, -1, -1):
            stmt, here = body[n], (*path, n)
            summary = self.summaries.found[here]
            if isinstance(stmt, Instr):
                self.occupy(end - 1, summary.touched.keys() | needed.keys())
            else:
                inner = {**extents, stmt.var: stmt.extent}
                self.sequence(stmt.body, inner, here, self.around(stmt, inner, here, needed), end)
            end -= _size(stmt)
            needed = _before(summary, needed, extents)

    def occupy(self, position: int, names: frozenset[str] | set[str]) -> None:
        for name in names:
            lives = self.lives.setdefault(name, [])
            if lives and lives[-1].first == position + 1:
                lives[-1] = LiveRange(position, lives[-1].last)
            else:
                lives.append(LiveRange(position, position))

    def around(self, loop: Loop, extents: Extents, path: Path, needed: Regions) -> Regions:
        """What is needed after one iteration: what the loop's successors need, and the next iterations."""
        body = self.summaries.found[(*path, -1)]
        result: Regions = {}
        for name, regions in needed.items():
            written = body.written.get(name, [])
            result[name] = [_by_last(r, written, loop, extents) for r in regions]
        for name, regions in body.exposed.items():
            written = body.written.get(name, [])
            following = (r for x in regions for r in _in_next(x, written, loop, extents))
            result.setdefault(name, []).extend(following)
        return result


def _from_before(read: Region, written: list[Region], loop: Loop, extents: Extents) -> list[Region]:
    """What a loop may read from before it, given a read in its body and all that the body writes."""
    distance = written_before(read, written, loop, extents)
    if distance:
        return first_reads(read, loop, distance)  # the others read what earlier iterations wrote
    swept = swept_read(read, loop)
    return [] if swept is None else [swept]


def _in_next(read: Region, written: list[Region], loop: Loop, extents: Extents) -> list[Region]:
    """What the next iterations may read of what is there after one iteration."""
    distance = written_before(read, written, loop, extents)
    following = [read.shifted(loop.var, n) for n in range(1, max(distance, 1) + 1)]
    if distance:
        return following
    # This iteration leaves some of it to still older writes: any iteration may need any of it.
    swept = swept_read(replace(read, unless=None), loop)
    return [*following, *([] if swept is None else [swept])]


def _by_last(needed: Region, written: list[Region], loop: Loop, extents: Extents) -> Region:
    """What is needed after the loop, seen from an iteration: where the last one writes it, no other does it for
    good, and what each one writes is more than is needed.
    """
    last = {loop.var: loop.extent - 1}
    return next((w for w in written if covers(w.at(last), needed, extents)), needed)


def _before(summary: _Summary, needed: Regions, extents: Extents) -> Regions:
    """What is needed before a statement, given what is needed after it."""
    if not summary.touched:
        return needed
    result: Regions = {}
    for name, regions in needed.items():
        written = summary.written.get(name, [])
        if not written:
            result[name] = regions
            continue
        still = [r for x in regions for r in remaining(x, written, extents)]
        if still:
            result[name] = still
    for name, regions in summary.exposed.items():
        known = result.get(name, [])
        result[name] = [*known, *(r for r in regions if r not in known)]
    return result
