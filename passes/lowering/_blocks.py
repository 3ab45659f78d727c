"""Register blocks: how the rows of a slab are cut into boxes that keep the multipliers busy.

A box spans any of the row dims, so that rows of several image rows or images make one block where one
image row alone would leave an accumulator too few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

Extents = tuple[tuple[str, int], ...]

# What a block costs beside its multiply-adds, in cycles: a start, and the epilogue of each vector.
_START = 20.0
_FINISH = 6.0
# Rows next to each other in memory fetch a little worse than rows far apart, and variants cost code.
_NEAR = 0.015
_VARIANT = 0.001


@dataclass(frozen=True, slots=True)
class Unit:
    """One core's multipliers: multiply-adds and vector loads per cycle, the latency of an addition, bytes per
    cycle of weights from where they stay, and the block: rows at most, vectors of columns, bytes of a vector.
    """

    fma: int
    loads: int
    latency: int
    stream: int
    rows: int
    vectors: int
    vector_bytes: int

    def step(self, rows: int) -> float:
        """Cycles of one term of the sum in every accumulator of a block."""
        return max(
            rows * self.vectors / self.fma,
            (rows + self.vectors) / self.loads,
            self.latency,
            self.vectors * self.vector_bytes / self.stream,
        )


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


def even(extent: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, size, count) of blocks of at most ``size``, of two sizes that differ by one: no thin remainder."""
    count = -(-extent // size)
    high = -(-extent // count)
    wide = extent - count * (high - 1)
    yield 0, high, wide
    if count > wide:
        yield wide * high, high - 1, count - wide


@lru_cache(maxsize=4096)
def cut(extents: Extents, unit: Unit, terms: int, rows: int = 1) -> tuple[float, Cut | None]:
    """Cycles of a slab, and how to cut it, slowest dim first. ``rows``: of a block by the dims outside."""
    if not extents:
        return terms * unit.step(rows) + _START + _FINISH * rows * unit.vectors, None
    (name, extent), rest = extents[0], extents[1:]
    best: tuple[float, Cut | None] = (float("inf"), None)
    for size in range(min(extent, max(1, unit.rows // rows)), 0, -1):
        if -(-extent // -(-extent // size)) != size:
            continue
        cycles, parts = 0.0, []
        for start, high, count in even(extent, size):
            inner, inside = cut(rest, unit, terms, rows * high)
            cycles += count * inner
            parts.append(Part(start, high, count, inside))
        cycles *= 1 + _VARIANT * len(parts) + (0 if rest else _NEAR * size)
        if cycles < best[0]:
            best = cycles, Cut(name, tuple(parts))
    return best
