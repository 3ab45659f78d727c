"""Live ranges of buffers over the structured program.

Instructions are numbered in program order. A buffer lives from a write to the last read of what was written,
and again from the next write that starts afresh; around a loop's back edge it lives through the whole loop
if some element may be read there before the same iteration has written it. Two buffers may share bytes
when none of their ranges overlap.

The question "written before read" is answered with boxes: what an instruction surely writes (its
destination box, when it has no holes) must contain what a later instruction of the same iteration reads.
Anything undecided counts as read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from opc.affine import Affine
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt, hull, instructions
from opc.program.opcodes import OPCODES


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
    return any(x.overlaps(y) for x in a for y in b)


@dataclass(frozen=True, slots=True)
class Liveness:
    """``ranges``: by buffer. ``homes``: the loops around a local buffer's whole life, outermost first;
    each iteration of the innermost starts a new life, so it may use another slot.
    """

    ranges: dict[str, Lives]
    homes: dict[str, tuple[Loop, ...]]


def live_ranges(program: Program) -> dict[str, Lives]:
    """The lives of every buffer; memory buffers live for whole top-level statements."""
    return liveness(program).ranges


def liveness(program: Program) -> Liveness:
    """Live ranges and homes of every buffer."""
    analysis = _Analysis(program.table())
    ranges = analysis.sequence(program.body, {}, 0).spans
    position = 0
    memory: dict[str, LiveRange] = {}
    for stmt in program.body:
        whole = LiveRange(position, position + _size(stmt) - 1)
        for name in touched(stmt):
            memory[name] = _join(memory.get(name, whole), whole)
        position = whole.last + 1
    for b in program.buffers:
        if b.kind != "local" and b.name in memory:
            ranges[b.name] = (memory[b.name],)
        ranges.setdefault(b.name, ())
    homes = analysis.homes
    return Liveness(ranges, {b.name: homes.get(b.name, ()) for b in program.buffers if b.kind == "local"})


def _size(stmt: Stmt) -> int:
    return 1 if isinstance(stmt, Instr) else sum(map(_size, stmt.body))


def touched(stmt: Stmt) -> frozenset[str]:
    """Names of the buffers that a statement accesses."""
    return frozenset(a.buffer for i, _ in instructions((stmt,)) for a in (*i.dst, *i.sources))


def _join(a: LiveRange, b: LiveRange) -> LiveRange:
    return LiveRange(min(a.first, b.first), max(a.last, b.last))


@dataclass(frozen=True, slots=True)
class _Region:
    """A box of one buffer; ``slot`` None is "some slot". ``unless`` is the init form of an accumulation:
    the region is not read where it is 0.
    """

    slot: Affine | None
    box: tuple[tuple[Affine, int], ...]
    unless: Affine | None = None

    def depends_on(self, name: str) -> bool:
        slot = self.slot is not None and name in self.slot.names
        return slot or any(name in base.names for base, _ in self.box)


@dataclass(slots=True)
class _Summary:
    """What a statement does to each buffer; ``spans`` are positions."""

    exposed: dict[str, list[_Region]] = field(default_factory=dict)
    written: dict[str, list[_Region]] = field(default_factory=dict)
    spans: dict[str, Lives] = field(default_factory=dict)


class _Analysis:
    def __init__(self, table: Mapping[str, Buffer]) -> None:
        self.table = table
        self.homes: dict[str, tuple[Loop, ...]] = {}

    def sequence(self, body: tuple[Stmt, ...], extents: dict[str, int], start: int) -> _Summary:
        """Statements in order: later reads are covered by earlier writes."""
        total = _Summary()
        parts: dict[str, list[tuple[LiveRange, _Summary]]] = {}
        for stmt in body:
            part = self.instr(stmt, start) if isinstance(stmt, Instr) else self.loop(stmt, extents, start)
            whole = LiveRange(start, start + _size(stmt) - 1)
            for name in part.spans:
                parts.setdefault(name, []).append((whole, part))
                self.extend(total, name, part, extents)
            start = whole.last + 1
        for name, touching in parts.items():
            total.spans[name] = self.lives(name, touching, extents)
            if len(touching) > 1:
                # One iteration of a deeper loop does not hold the whole life.
                self.homes.pop(name, None)
        return total

    def extend(self, total: _Summary, name: str, part: _Summary, extents: Mapping[str, int]) -> None:
        """Append what ``part`` does to one buffer."""
        earlier = total.written.setdefault(name, [])
        for read in part.exposed.get(name, ()):
            if not any(_covers(w, read, extents) for w in earlier):
                total.exposed.setdefault(name, []).append(read)
        for region in part.written.get(name, ()):
            _add(earlier, region)

    def lives(
        self, name: str, touching: list[tuple[LiveRange, _Summary]], extents: Mapping[str, int]
    ) -> Lives:
        """Split the statements that touch a buffer where nothing older is read any more, from the back."""
        found: list[LiveRange] = []
        end = len(touching)
        for begin in range(len(touching) - 1, -1, -1):
            if begin and name in touching[begin][1].exposed:
                continue
            life = _Summary()
            for _, part in touching[begin:end] if begin else ():
                self.extend(life, name, part, extents)
            if name in life.exposed:
                continue
            # A loop that holds a whole life keeps its finer ranges; among others it counts as a whole,
            # since what one of its iterations wrote must survive the rest.
            if end - begin == 1:
                found[:0] = touching[begin][1].spans[name]
            else:
                found.insert(0, LiveRange(touching[begin][0].first, touching[end - 1][0].last))
            end = begin
        return tuple(found)

    def loop(self, loop: Loop, extents: dict[str, int], start: int) -> _Summary:
        body = self.sequence(loop.body, {**extents, loop.var: loop.extent}, start)
        whole = LiveRange(start, start + _size(loop) - 1)
        result = _Summary()
        for name, lives in body.spans.items():
            carried = name in body.exposed
            result.spans[name] = (whole,) if carried else lives
            if not carried:
                self.homes[name] = (loop, *self.homes.get(name, ()))
        for name, regions in body.exposed.items():
            after = [r for r in (_swept_read(x, loop) for x in regions) if r is not None]
            if after:
                result.exposed[name] = after
        for name, regions in body.written.items():
            for region in regions:
                _add(result.written.setdefault(name, []), _swept_write(region, loop))
        return result

    def instr(self, i: Instr, position: int) -> _Summary:
        result = _Summary()
        dims = i.extents
        for access in i.sources:
            result.exposed.setdefault(access.buffer, []).append(self.region(access, dims))
        for access in i.dst:
            region = self.region(access, dims)
            if OPCODES[i.opcode].reduces and i.init != Affine():
                result.exposed.setdefault(access.buffer, []).append(replace(region, unless=i.init))
            if _has_no_holes(access, dims):
                result.written.setdefault(access.buffer, []).append(region)
        for access in (*i.dst, *i.sources):
            result.spans[access.buffer] = (LiveRange(position, position),)
        return result

    def region(self, access: Access, dims: dict[str, int]) -> _Region:
        slot = access.slot if self.table[access.buffer].slots > 1 else Affine()
        return _Region(slot, hull(access, dims))


def _has_no_holes(access: Access, dims: dict[str, int]) -> bool:
    """Whether the access touches every element of its hull box."""
    seen: set[str] = set()
    for form in access.index:
        terms = sorted((abs(c), dims[n], n) for n, c in form.terms if dims.get(n, 1) > 1)
        reach = 0
        for coefficient, extent, name in terms:
            if coefficient > reach + 1 or name in seen:
                return False
            seen.add(name)
            reach += coefficient * (extent - 1)
    return True


def _covers(written: _Region, read: _Region, extents: Mapping[str, int]) -> bool:
    """Whether the written box contains the read one for all loop values."""
    if written.slot is None or written.slot != read.slot:
        return False
    for (base, count), (start, needed) in zip(written.box, read.box, strict=True):
        low, high = (start - base).interval(extents)
        if low < 0 or high + needed > count:
            return False
    return True


def _add(regions: list[_Region], new: _Region) -> None:
    """Append, merging boxes that touch along one axis so that tails complete their loop."""
    for index, old in enumerate(regions):
        merged = _merge(old, new)
        if merged is not None:
            del regions[index]
            _add(regions, merged)
            return
    regions.append(new)


def _merge(a: _Region, b: _Region) -> _Region | None:
    differing = [axis for axis, (x, y) in enumerate(zip(a.box, b.box, strict=True)) if x != y]
    if a.slot != b.slot or len(differing) > 1:
        return None
    if not differing:
        return a
    axis = differing[0]
    (base, count), (other, more) = a.box[axis], b.box[axis]
    gap = other - base
    if not gap.is_const or gap.const > count or -gap.const > more:
        return None
    low = base if gap.const >= 0 else other
    size = max(count, gap.const + more) if gap.const >= 0 else max(more, count - gap.const)
    return replace(a, box=(*a.box[:axis], (low, size), *a.box[axis + 1 :]))


def _swept_read(region: _Region, loop: Loop) -> _Region | None:
    """What the whole loop may read from before it; None if the first iteration overwrites it."""
    unless = region.unless
    if unless is not None and loop.var in unless.names:
        unless = unless.substitute({loop.var: 0})
        if unless == Affine() and not region.depends_on(loop.var):
            return None
        # Still exposed at 0 only if the region moves: later iterations then accumulate into fresh boxes.
        unless = None if unless == Affine() else unless
    slot = None if region.slot is not None and loop.var in region.slot.names else region.slot
    box = tuple(_sweep(base, count, loop) for base, count in region.box)
    return _Region(slot, box, unless)


def _sweep(base: Affine, count: int, loop: Loop) -> tuple[Affine, int]:
    c = base.coefficient(loop.var)
    reach = c * (loop.extent - 1)
    return base.substitute({loop.var: 0}) + min(reach, 0), count + abs(reach)


def _swept_write(region: _Region, loop: Loop) -> _Region:
    """What the loop surely writes: the union over iterations if that is a box, else the first one's."""
    moving = [axis for axis, (base, _) in enumerate(region.box) if loop.var in base.names]
    slot = region.slot.substitute({loop.var: 0}) if region.slot is not None else None
    box = [(base.substitute({loop.var: 0}), count) for base, count in region.box]
    steady = region.slot is None or loop.var not in region.slot.names
    if len(moving) == 1 and steady:
        axis = moving[0]
        base, count = region.box[axis]
        if abs(base.coefficient(loop.var)) <= count:
            box[axis] = _sweep(base, count, loop)
    return _Region(slot, tuple(box))
