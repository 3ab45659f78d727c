"""Sets of bytes as sorted disjoint runs: shapes of operands, exact overlap, coverage."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

Runs = tuple[tuple[int, int], ...]  # (first byte, byte after the last), sorted, apart from each other


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes of one operand at one execution: ``runs`` moved up by ``address``."""

    address: int
    runs: Runs

    @property
    def low(self) -> int:
        return self.address + self.runs[0][0]

    @property
    def high(self) -> int:
        return self.address + self.runs[-1][1]


def merged(runs: Iterable[tuple[int, int]]) -> Runs:
    """The canonical form of any runs."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(runs):
        if found and low <= found[-1][1]:
            if high > found[-1][1]:
                found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return tuple(found)


@lru_cache(maxsize=4096)
def box_runs(extents: tuple[int, ...], strides: tuple[int, ...], size: int) -> Runs:
    """Bytes of a strided box of elements of ``size`` bytes, the first element at address 0."""
    dims = sorted((abs(s), s, e) for s, e in zip(strides, extents, strict=True) if e > 1 and s)
    block, first = size, 0
    rest: list[tuple[int, int]] = []
    for pitch, stride, extent in dims:
        first += min(0, stride * (extent - 1))
        if not rest and pitch <= block:
            block = pitch * (extent - 1) + block
        else:
            rest.append((pitch, extent))
    runs: Runs = ((first, first + block),)
    for pitch, extent in rest:
        runs = merged((low + n * pitch, high + n * pitch) for n in range(extent) for low, high in runs)
    return runs


@lru_cache(maxsize=4096)
def within(runs: Runs, low: int, high: int) -> Runs:
    """The runs between two bytes; all of them if none is there."""
    if runs[0][0] >= low and runs[-1][1] <= high:
        return runs
    return tuple((max(a, low), min(b, high)) for a, b in runs if a < high and b > low) or runs


@lru_cache(maxsize=65536)
def overlap(a: Runs, b: Runs, shift: int) -> tuple[int, int] | None:
    """The first run of bytes in both ``a`` and ``b`` moved up by ``shift``, in a's addresses."""
    if len(a) > len(b):
        found = overlap(b, a, -shift)
        return (found[0] + shift, found[1] + shift) if found else None
    for low, high in a:
        n = bisect_right(b, (low - shift, low - shift)) - 1
        if n < 0 or b[n][1] + shift <= low:
            n += 1
        if n < len(b) and b[n][0] + shift < high:
            return max(low, b[n][0] + shift), min(high, b[n][1] + shift)
    return None


class Coverage:
    """A growing set of bytes."""

    def __init__(self) -> None:
        self.lows: list[int] = []
        self.highs: list[int] = []

    def add(self, runs: Sequence[tuple[int, int]], shift: int = 0) -> None:
        """Put runs in."""
        lows, highs = self.lows, self.highs
        for low, high in runs:
            low, high = low + shift, high + shift
            first, last = bisect_left(highs, low), bisect_right(lows, high)
            if first < last:
                low, high = min(low, lows[first]), max(high, highs[last - 1])
            lows[first:last] = [low]
            highs[first:last] = [high]

    def missing(self, runs: Sequence[tuple[int, int]], shift: int = 0) -> tuple[int, int] | None:
        """The first bytes of ``runs`` that are not in the set, None if all are."""
        for low, high in runs:
            low, high = low + shift, high + shift
            n = bisect_right(self.lows, low) - 1
            covered = self.highs[n] if n >= 0 and self.highs[n] > low else low
            if covered < high:
                following = self.lows[n + 1] if n + 1 < len(self.lows) else high
                return covered, min(high, following)
        return None

    def runs(self) -> Runs:
        """All bytes."""
        return tuple(zip(self.lows, self.highs, strict=True))
