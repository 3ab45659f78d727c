"""Tiles worth pricing where operands pass through a staging memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from opc.machine.model import Machine
from opc.tensor.ir import Dim
from passes.lowering._plan import Plan, Shape, balanced, divisors

_ROWS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 448, 512, 1024)
_WIDTHS = (16, 32, 64, 128, 256)  # of tiles, in columns


def tilings(s: Shape) -> Iterator[dict[str, int]]:
    """Sizes of every batch, row and column dim of a tile."""
    base = {d.name: 1 for d in (*s.batch, *s.m, *s.n)}
    for tile in _m_tiles(s.m):
        for columns in _n_tiles(s.n):
            yield {**base, **tile, **columns}


def _n_tiles(n: tuple[Dim, ...]) -> Iterator[dict[str, int]]:
    """Blocks of the innermost dim, beside them none, some or all of the others: a window's taps share their columns."""
    if not n:
        yield {}
        return
    *others, inner = n
    # A window's taps fill blocks together with half as many columns.
    widths = (8, *_WIDTHS) if others else _WIDTHS
    for size in sorted({balanced(inner.extent, width) for width in widths}):
        for i in range(len(others), -1, -1):
            yield {**{d.name: d.extent for d in others[i:]}, inner.name: size}


def _m_tiles(m: tuple[Dim, ...]) -> Iterator[dict[str, int]]:
    if not m:
        yield {}
        return
    inner = m[-1]
    sizes = sorted({balanced(inner.extent, x) for x in _ROWS})
    if len(m) == 1:
        # Nothing beside the rows to choose from: sizes without a remainder are worth a look as well.
        sizes = sorted({*sizes, *(t for t in divisors(inner.extent) if 16 <= t <= _ROWS[-1])})
    for t in sizes:
        if t < inner.extent or len(m) == 1:
            yield {inner.name: t}
            continue
        rows = m[-2]
        for r in (
            divisors(rows.extent)
            if rows.extent <= 512
            else [balanced(rows.extent, x) for x in (1, 2, 4, 8, 16)]
        ):
            if r * t > _ROWS[-1]:
                break
            yield {inner.name: t, rows.name: r}


def bands(s: Shape, plan: Plan, machine: Machine) -> list[int]:
    """Rows of one core where it has several tiles of them: as few as spread over all cores, or some more that
    leave no remainder. Cores that spread columns share no operand anyway.
    """
    rows = next((d for d in s.m if d.name == plan.parallel), None)
    tiles = ceil(rows.extent / plan.outer[rows.name]) if rows else 1
    each = ceil(tiles / machine.cores)
    if each == 1:
        return [0]
    even = next(t for t in divisors(tiles) if t >= each)
    return [plan.outer[plan.parallel] * n for n in dict.fromkeys((each, even))]
