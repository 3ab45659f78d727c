"""Live ranges of buffers over the structured program.

Instructions are numbered in program order. A buffer lives from its first to its last access, widened to
every loop around whose back edge it carries a value: one in whose body an element may be read before
the same iteration has written all of it. Two buffers may share bytes when their ranges are disjoint.

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
    """Positions of instructions, both inclusive; empty when ``last < first``."""

    first: int
    last: int

    def overlaps(self, other: LiveRange) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Liveness:
    """``ranges``: by buffer. ``homes``: the loops around a local buffer's whole life, outermost first;
    each iteration of the innermost starts a new life, so it may use another slot.
    """

    ranges: dict[str, LiveRange]
    homes: dict[str, tuple[Loop, ...]]


def live_ranges(program: Program) -> dict[str, LiveRange]:
    """The live range of every buffer; memory buffers live for whole top-level statements."""
    return liveness(program).ranges


def liveness(program: Program) -> Liveness:
    """Live ranges and homes of every buffer."""
    analysis = _Analysis(program.table())
    top = analysis.sequence(program.body, {}, 0)
    ranges, homes = dict(top.spans), analysis.homes
    position = 0
    for stmt in program.body:
        size = _size(stmt)
        for b in program.buffers:
            if b.kind != "local" and b.name in touched(stmt):
                ranges[b.name] = _join(ranges.get(b.name), LiveRange(position, position + size - 1))
        position += size
    for b in program.buffers:
        ranges.setdefault(b.name, LiveRange(0, -1))
    return Liveness(ranges, {b.name: homes.get(b.name, ()) for b in program.buffers if b.kind == "local"})


def _size(stmt: Stmt) -> int:
    return 1 if isinstance(stmt, Instr) else sum(map(_size, stmt.body))


def touched(stmt: Stmt) -> frozenset[str]:
    """Names of the buffers that a statement accesses."""
    return frozenset(a.buffer for i, _ in instructions((stmt,)) for a in (*i.dst, *i.sources))


def _join(a: LiveRange | None, b: LiveRange) -> LiveRange:
    return b if a is None else LiveRange(min(a.first, b.first), max(a.last, b.last))


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
    spans: dict[str, LiveRange] = field(default_factory=dict)


class _Analysis:
    def __init__(self, table: Mapping[str, Buffer]) -> None:
        self.table = table
        self.homes: dict[str, tuple[Loop, ...]] = {}

    def sequence(self, body: tuple[Stmt, ...], extents: dict[str, int], start: int) -> _Summary:
        """Statements in order: later reads are covered by earlier writes."""
        total = _Summary()
        shared: set[str] = set()
        for stmt in body:
            part = self.instr(stmt, start) if isinstance(stmt, Instr) else self.loop(stmt, extents, start)
            size = _size(stmt)
            for name, regions in part.exposed.items():
                earlier = total.written.get(name, [])
                open_regions = [r for r in regions if not any(_covers(w, r, extents) for w in earlier)]
                if open_regions:
                    total.exposed.setdefault(name, []).extend(open_regions)
            for name, regions in part.written.items():
                for region in regions:
                    _add(total.written.setdefault(name, []), region)
            shared |= total.spans.keys() & part.spans.keys()
            for name, span in part.spans.items():
                # With accesses in several statements every loop among them counts as a whole: what one
                # of its iterations wrote must survive the others.
                whole = LiveRange(start, start + size - 1)
                earlier_span = total.spans.get(name)
                total.spans[name] = span if earlier_span is None else _join(earlier_span, whole)
            start += size
        self.widen(body, shared, total, start - sum(map(_size, body)))
        return total

    def widen(self, body: tuple[Stmt, ...], shared: set[str], total: _Summary, start: int) -> None:
        """The first statement of a shared buffer also counts as a whole; no deeper loop is its home."""
        for stmt in body:
            whole = LiveRange(start, start + _size(stmt) - 1)
            for name in sorted(shared & touched(stmt)) if shared else ():
                total.spans[name] = _join(total.spans[name], whole)
                self.homes.pop(name, None)
            start = whole.last + 1

    def loop(self, loop: Loop, extents: dict[str, int], start: int) -> _Summary:
        body = self.sequence(loop.body, {**extents, loop.var: loop.extent}, start)
        whole = LiveRange(start, start + _size(loop) - 1)
        result = _Summary()
        for name, span in body.spans.items():
            carried = name in body.exposed
            result.spans[name] = whole if carried else span
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
            result.spans[access.buffer] = LiveRange(position, position)
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
