"""Do the pieces of an output cover it, each element once? Exact, axis by axis.

A piece whose dimensions each drive one axis writes a product of axis sets. Most axis sets are
arithmetic progressions; the rest are bit masks over the axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, product
from math import gcd, prod
from typing import NamedTuple

from opc.affine import Affine

MAX_MASK = 2**22


class NotInjectiveError(Exception):
    """An axis index that takes the same value twice."""


class TooComplexError(Exception):
    """An axis set that is no progression, on an axis too long for a mask."""


class AxisSet(NamedTuple):
    """``{offset + step*i, 0 <= i < size}``, or the bits of ``mask`` where it is given."""

    offset: int
    step: int
    size: int
    last: int
    mask: int | None = None

    def has(self, value: int) -> bool:
        """Whether ``value`` is in the set."""
        if self.mask is not None:
            return value >= 0 and bool(self.mask >> value & 1)
        return self.offset <= value <= self.last and (value - self.offset) % self.step == 0

    def bits(self) -> int:
        """The set as a mask. Raises TooComplexError on a long axis."""
        if self.mask is not None:
            return self.mask
        if self.last >= MAX_MASK:
            raise TooComplexError
        return _spread(1 << self.offset, self.step, self.size)

    def disjoint(self, other: AxisSet) -> bool:
        """No value in common."""
        if self.last < other.offset or other.last < self.offset:
            return True
        if self.mask is None and other.mask is None:
            return not _progressions_meet(self, other)
        return not self.bits() & other.bits()


def axis_set(form: Affine, extents: Mapping[str, int]) -> AxisSet:
    """The values of ``form``, known to be >= 0. Raises NotInjectiveError and TooComplexError."""
    low, high = form.interval(extents)
    terms = sorted((abs(c), extents[name]) for name, c in form.terms if extents[name] > 1)
    count = prod(extent for _, extent in terms)
    step, reached = (terms[0][0] if terms else 1), 1
    for coefficient, extent in terms:
        if coefficient != step * reached:
            return _masked(terms, low, high, count)
        reached *= extent
    return AxisSet(low, step, count, high)


def _masked(terms: Sequence[tuple[int, int]], low: int, high: int, count: int) -> AxisSet:
    if high >= MAX_MASK:
        raise TooComplexError
    mask = 1 << low
    for coefficient, extent in terms:
        mask = _spread(mask, coefficient, extent)
    if mask.bit_count() != count:
        raise NotInjectiveError
    return AxisSet(low, 1, count, high, mask)


def _spread(mask: int, step: int, count: int) -> int:
    """Union of ``mask`` shifted by 0, step, …, (count-1)*step, by doubling."""
    done, result = 1, mask
    while done < count:
        move = min(done, count - done)
        result |= result << (move * step)
        done += move
    return result


def _progressions_meet(a: AxisSet, b: AxisSet) -> bool:
    common = gcd(a.step, b.step)
    if (b.offset - a.offset) % common:
        return False
    period = b.step // common
    inverse = pow(a.step // common, -1, period) if period > 1 else 0
    steps = (b.offset - a.offset) // common * inverse % period if period > 1 else 0
    meeting = a.offset + steps * a.step
    lowest = max(a.offset, b.offset)
    cycle = a.step * period
    if meeting < lowest:
        meeting += -(-(lowest - meeting) // cycle) * cycle
    return meeting <= min(a.last, b.last)


Box = tuple[AxisSet, ...]


def overlap(boxes: Sequence[Box]) -> tuple[int, int] | None:
    """The first two boxes that share an element."""
    for j, second in enumerate(boxes):
        for i, first in enumerate(boxes[:j]):
            if not any(a.disjoint(b) for a, b in zip(first, second, strict=True)):
                return i, j
    return None


def missing(boxes: Sequence[Box], shape: tuple[int, ...]) -> int:
    """How many elements of ``shape`` no box holds; the boxes are disjoint and inside."""
    return prod(shape) - sum(prod(s.size for s in box) for box in boxes)


def witness(boxes: Sequence[Box], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Some element no box holds, looked for near the edges of the boxes."""
    candidates = []
    for axis, extent in enumerate(shape):
        edges = {0, extent - 1}
        for box in boxes:
            s = box[axis]
            edges |= {s.offset - 1, s.offset + 1, s.last + 1, s.last - 1}
            if s.mask is not None:
                edges.add((~s.mask & (s.mask + 1)).bit_length() - 1)
        candidates.append(sorted(v for v in edges if 0 <= v < extent))
    for point in islice(product(*candidates), 20_000):
        if not any(all(s.has(v) for v, s in zip(point, box, strict=True)) for box in boxes):
            return point
    return None
