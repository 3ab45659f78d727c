"""Register blocks: how the rows of a slab are cut into boxes that keep the multipliers busy.

A box spans any of the row dims, so that rows of several image rows or images make one block where one
image row alone would leave an accumulator too few.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import prod

# A dim, its extent, bytes between neighbours in memory, the positions they are apart and further ones that
# the sum touches.
Extents = tuple[tuple[str, int, int, int, int], ...]
Box = tuple[tuple[int, int, int, int], ...]  # the same, dim by dim
Run = tuple[int, int]  # size of a block, and how many follow each other

# What a block costs beside its multiply-adds, in cycles: a start, and the epilogue of each vector.
START = 20.0
FINISH = 6.0
# Rows next to each other in memory fetch a little worse than rows far apart, and variants cost code.
_NEAR = 0.06
# Units that are busy at the same time get into each other's way the more the fuller they are.
_SHARPNESS = 12
_LINE = 64
_SPARE = 2  # ways of a set that other data pass through
_VARIANT = 0.002


@dataclass(frozen=True, slots=True)
class Unit:
    """One core's multipliers: multiply-adds and vector loads per cycle, the latency of an addition, bytes per
    cycle of weights from where they stay, and the block: rows at most, vectors of columns, bytes of a vector.
    The nearest cache: its sets and ways, and bytes per cycle from the next. ``depth``: bytes of rows at a position.
    """

    fma: int
    loads: int
    latency: int
    stream: int
    rows: int
    vectors: int
    vector_bytes: int
    sets: int
    ways: int
    refill: int
    depth: int = 0

    def step(self, rows: int, refilled: int = 0) -> float:
        """Cycles of one term of the sum in every accumulator of a block, for which so many lines come again."""
        busy = (
            rows * self.vectors / self.fma,
            (rows + self.vectors) / self.loads,
            self.latency,
            self.vectors * self.vector_bytes / self.stream,
            refilled * _LINE / self.refill,
        )
        return float(sum(b**_SHARPNESS for b in busy) ** (1 / _SHARPNESS))


@dataclass(frozen=True, slots=True)
class Part:
    """``count`` blocks of ``size`` along a dim from ``start`` on, and how each is cut along the dims inside."""

    start: int
    size: int
    count: int
    inside: Cut | None


@dataclass(frozen=True, slots=True)
class Cut:
    """Blocks along one dim."""

    dim: str
    parts: tuple[Part, ...]


def blocks_of(cut: Cut | None) -> int:
    """How many blocks there are."""
    return sum(p.count * blocks_of(p.inside) for p in cut.parts) if cut else 1


def even(extent: int, size: int) -> tuple[Run, ...]:
    """Blocks of at most ``size``, of two sizes that differ by one: no thin remainder."""
    count = -(-extent // size)
    high = -(-extent // count)
    wide = extent - count * (high - 1)
    return ((high, wide), (high - 1, count - wide)) if count > wide else ((high, wide),)


@lru_cache(maxsize=1024)
def splits(extent: int, most: int) -> tuple[tuple[Run, ...], ...]:
    """Ways to make an extent of blocks of one or two sizes: as even as possible, or large ones and a
    remainder that other dims can then be long in.
    """
    found = {}
    for size in range(min(extent, most), 0, -1):
        found[even(extent, size)] = True
        for count in (extent // size, extent // size - 1):
            rest = extent - count * size
            for low in range(min(size - 1, rest) if count else 0, 0, -1):
                if rest % low == 0:
                    found[(size, count), (low, rest // low)] = True
    return tuple(found)


@lru_cache(maxsize=1024)
def crowded(box: Box, sets: int, ways: int) -> int:
    """Lines, one for each row of a box, that push each other out of the nearest cache before they are used up."""
    offsets = [0]
    for extent, apart, *_ in box:
        offsets = [o + i * apart for o in offsets for i in range(extent)]
    used = Counter(line % sets for line in {o // _LINE for o in offsets})
    return sum(n for n in used.values() if n > ways - _SPARE)


def _beside(box: Box, depth: int) -> int:
    """Bytes of rows that a block touches beside a position for each row: square boxes share most of them."""
    touched = prod((n - 1) * step + 1 + extra if extra else n for n, _, step, extra in box)
    return depth * (touched - prod(n for n, *_ in box))


@lru_cache(maxsize=4096)
def cut(extents: Extents, unit: Unit, terms: int, box: Box = ()) -> tuple[float, Cut | None]:
    """Cycles of a slab, and how to cut it, slowest dim first. ``box``: of a block along the dims outside."""
    rows = prod(n for n, *_ in box)
    if not extents:
        step = unit.step(rows, crowded(box, unit.sets, unit.ways))
        cycles = terms * step + START + FINISH * rows * unit.vectors
        return cycles + _beside(box, unit.depth) / unit.refill, None
    (name, extent, *about), rest = extents[0], extents[1:]
    best: tuple[float, Cut | None] = (float("inf"), None)
    for runs in splits(extent, max(1, unit.rows // rows)):
        cycles, start, parts = 0.0, 0, []
        for size, count in runs:
            inner, inside = cut(rest, unit, terms, (*box, (size, *about)))
            cycles += count * inner * (1 + _NEAR / rows if box and not rest else 1)
            parts.append(Part(start, size, count, inside))
            start += size * count
        cycles *= 1 + _VARIANT * len(parts)
        if cycles < best[0]:
            best = cycles, Cut(name, tuple(parts))
    return best
