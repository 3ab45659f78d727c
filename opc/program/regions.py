"""Boxes of a buffer that an instruction, or a loop of them, surely writes or may read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.program.ir import Access, Loop, hull

Span = tuple[Affine, int]  # first index, number of indices
_PIECES = 16  # that a region may be left in; more are counted as all of it


@dataclass(frozen=True, slots=True)
class Region:
    """A box of one buffer of ``slots`` slots; ``slot`` None is "some slot", any other form is reduced modulo
    ``slots``. ``unless`` is the init form of an accumulation: the region is not read where it is 0.
    """

    slot: Affine | None
    box: tuple[Span, ...]
    unless: Affine | None = None
    slots: int = 1

    @staticmethod
    def of(access: Access, dims: dict[str, int], slots: int, unless: Affine | None = None) -> Region:
        """What an access touches; buffers of one slot ignore theirs."""
        return Region(_reduced(access.slot, slots), hull(access, dims), unless, slots)

    def inside(self, shape: tuple[int, ...]) -> Region | None:
        """The part within a buffer of that shape, where that is certain; None if nothing is."""
        box = []
        for (base, count), extent in zip(self.box, shape, strict=True):
            low, high = (max(base.const, 0), min(base.const + count, extent)) if base.is_const else (0, 1)
            if high <= low:
                return None
            box.append((Affine((), low), high - low) if base.is_const else (base, count))
        return replace(self, box=tuple(box))

    def depends_on(self, name: str) -> bool:
        slot = self.slot is not None and name in self.slot.names
        return slot or any(name in base.names for base, _ in self.box)

    def shifted(self, name: str, by: int = 1) -> Region:
        """The same region some iterations later."""
        return self.at({name: Affine.var(name) + by})

    def at(self, values: Mapping[str, Affine | int]) -> Region:
        """The region with loop variables replaced."""
        slot = None if self.slot is None else _reduced(self.slot.substitute(values), self.slots)
        unless = None if self.unless is None else self.unless.substitute(values)
        box = tuple((base.substitute(values), count) for base, count in self.box)
        return Region(slot, box, unless, self.slots)


def _reduced(slot: Affine, slots: int) -> Affine:
    """A form equal to ``slot`` modulo ``slots``; equal numbers of slots then look equal."""
    return Affine(tuple((n, c % slots) for n, c in slot.terms if c % slots), slot.const % slots)


def has_no_holes(access: Access, dims: Mapping[str, int]) -> bool:
    """Whether the access touches every element of its hull box."""
    seen: set[str] = set()
    for form in access.index:
        reach = 0
        for coefficient, name in sorted((abs(c), n) for n, c in form.terms if dims.get(n, 1) > 1):
            if coefficient > reach + 1 or name in seen:
                return False
            seen.add(name)
            reach += coefficient * (dims[name] - 1)
    return True


def covers(written: Region, read: Region, extents: Mapping[str, int]) -> bool:
    """Whether the written box contains the read one for all loop values."""
    if written.slot is None or written.slot != read.slot:
        return False
    return all(_contains(w, r, extents) for w, r in zip(written.box, read.box, strict=True))


def _contains(outer: Span, inner: Span, extents: Mapping[str, int]) -> bool:
    if inner[0].terms == outer[0].terms:
        low = high = inner[0].const - outer[0].const
    else:
        low, high = (inner[0] - outer[0]).interval(extents)
    return low >= 0 and high + inner[1] <= outer[1]


def remaining(read: Region, written: Sequence[Region], extents: Mapping[str, int]) -> list[Region]:
    """``read`` less what is written, in boxes that share nothing; no less where it is undecided."""
    left = [read]
    if any(covers(w, read, extents) for w in written):
        return []
    for w in written:
        left = [part for r in left for part in _less(r, w, extents)]
    return left if len(left) <= _PIECES else [read]


def _less(read: Region, written: Region, extents: Mapping[str, int]) -> list[Region]:
    """One box less another: what is beyond it on either side, axis by axis."""
    if written.slot is None or written.slot != read.slot:
        return [read]
    box, beyond = list(read.box), []
    for axis, (w, r) in enumerate(zip(written.box, read.box, strict=True)):
        if _contains(w, r, extents):
            continue
        gap = w[0] - r[0]
        low, high = max(gap.const, 0), min(gap.const + w[1], r[1])
        if not gap.is_const or low >= high:
            return [read]
        for start, end in ((0, low), (high, r[1])):
            if start < end:
                box[axis] = (r[0] + start, end - start)
                beyond.append(replace(read, box=tuple(box)))
        box[axis] = (r[0] + low, high - low)
    return beyond


def add_region(regions: list[Region], new: Region) -> None:
    """Append, merging boxes that touch along one axis so that tails complete their loop."""
    for index, old in enumerate(regions):
        merged = _merge(old, new)
        if merged is not None:
            del regions[index]
            add_region(regions, merged)
            return
    regions.append(new)


def _merge(a: Region, b: Region) -> Region | None:
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


def swept_read(region: Region, loop: Loop) -> Region | None:
    """What the whole loop may read from before it; None if the first iteration overwrites it."""
    unless = region.unless
    if unless is not None and loop.var in unless.names:
        unless = unless.substitute({loop.var: 0})
        if unless == Affine() and not region.depends_on(loop.var):
            return None
        # A region that moves with the loop reads elements its first iteration did not start.
        unless = None if unless == Affine() else unless
    slot = None if region.slot is not None and loop.var in region.slot.names else region.slot
    return Region(slot, tuple(_sweep(span, loop) for span in region.box), unless, region.slots)


def written_before(read: Region, written: Sequence[Region], loop: Loop, extents: Mapping[str, int]) -> int:
    """How many iterations before a read in ``loop`` one surely writes it; 0 if none is found.

    None is sought beyond the number of slots: a slot then holds another value.
    """
    later = read
    for distance in range(1, min(read.slots, loop.extent - 1) + 1):
        later = later.shifted(loop.var)
        if any(covers(w, later, extents) for w in written):
            return distance
    return 0


def first_reads(read: Region, loop: Loop, count: int) -> list[Region]:
    """What the first ``count`` iterations read."""
    found = (read.at({loop.var: n}) for n in range(count))
    return [r for r in found if r.unless != Affine()]


def _sweep(span: Span, loop: Loop) -> Span:
    base, count = span
    reach = base.coefficient(loop.var) * (loop.extent - 1)
    return base.substitute({loop.var: 0}) + min(reach, 0), count + abs(reach)


def swept_writes(region: Region, loop: Loop) -> list[Region]:
    """What the loop surely writes: the union over iterations if that is a box, else what as many iterations as
    there are slots write at its beginning and at its end.
    """
    moving = [axis for axis, (base, _) in enumerate(region.box) if loop.var in base.names]
    steady = region.slot is None or loop.var not in region.slot.names
    if len(moving) == 1 and steady:
        base, count = region.box[moving[0]]
        if abs(base.coefficient(loop.var)) <= count:
            box = list(region.at({loop.var: 0}).box)
            box[moving[0]] = _sweep((base, count), loop)
            return [replace(region, box=tuple(box))]
    count = min(region.slots, loop.extent)
    numbers = {*range(count), *range(loop.extent - count, loop.extent)}
    return list(dict.fromkeys(region.at({loop.var: n}) for n in sorted(numbers)))
