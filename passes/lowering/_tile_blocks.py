"""Boxes of rows that tile registers take: how one tile, and a block of tiles, lies in the M dims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, prod

from opc.tensor.ir import Dim


@dataclass(frozen=True, slots=True)
class Rows:
    """``tile``: the box of one tile, dims slowest first. A block is ``count`` tiles one after another along
    ``along``. ``inner``: the dim a copy must have innermost, or "".
    """

    tile: dict[str, int]
    along: str
    count: int
    inner: str = ""

    @property
    def rows(self) -> int:
        return prod(self.tile.values())

    @property
    def block(self) -> dict[str, int]:
        """The box of the block, slowest dim first."""
        box = {} if self.along in self.tile or not self.along else {self.along: 1}
        box.update(self.tile)
        if self.along:
            box[self.along] *= self.count
        return box

    def boxes(self, block: Mapping[str, int]) -> tuple[tuple[int, dict[str, int]], ...]:
        """First row along ``along`` and box of each tile of a block of these extents."""
        size = self.tile.get(self.along, 1)
        found = []
        for start in range(0, block.get(self.along, 1), size):
            box = {d: min(n, block[d]) for d, n in self.tile.items()}
            if self.along in box:
                box[self.along] = min(size, block[self.along] - start)
            found.append((start, box))
        return tuple(found)

    def blocks(self, extents: Mapping[str, int]) -> int:
        """Blocks that cover a box of these extents."""
        box = self.block
        return prod(ceil(e / min(box.get(name, 1), e)) for name, e in extents.items())


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles of a block: first row and rows of each tile row, first column and columns of each tile column."""

    along: str
    starts: tuple[tuple[int, dict[str, int]], ...]
    columns: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cover:
    """``count`` blocks every ``step``, and one more that ends where the extent ends (``tail``)."""

    count: int
    step: int
    tail: bool


def cover(extent: int, size: int) -> Cover:
    """Blocks of one size over an extent that is no smaller; they overlap where it is no multiple.

    Overlapping blocks compute some rows twice, but every tile keeps its shape and one loop does all of them.
    """
    count = ceil(extent / size)
    if count == 1:
        return Cover(1, size, False)
    if (extent - size) % (count - 1) == 0:
        return Cover(count, (extent - size) // (count - 1), False)
    return Cover(count - 1, size, True)


def choices(m: tuple[Dim, ...], limit: int, most: int) -> Iterator[Rows]:
    """Ways to lay tiles of at most ``limit`` rows, at most ``most`` of them in a block.

    The innermost M dim gives a tile its rows; where it is short, an outer dim gives more of them.
    """
    if not m:
        yield Rows({}, "", 1)
        return
    q, others = m[-1], m[:-1]
    for count in range(1, most + 1):
        size = _size(q.extent, count, limit)
        if size:
            yield Rows({q.name: size}, q.name, count)
        for d in others if count > 1 else ():
            if d.extent >= count:
                yield Rows({q.name: _size(q.extent, 1, limit)}, d.name, count)
        for d in others:
            yield from _folded(q, d, [o for o in others if o is not d], count, limit)


def _folded(q: Dim, d: Dim, others: list[Dim], count: int, limit: int) -> Iterator[Rows]:
    """Tiles of a few positions of ``q`` times all of ``d``, or a part that divides it, if that fills them better."""
    part = max(n for n in range(1, min(d.extent, limit) + 1) if d.extent % n == 0)
    fewest = _size(q.extent, 1, limit) + 1
    size = _size(q.extent, count, limit // part)
    if part > 1 and size * part >= fewest:
        yield Rows({q.name: size, d.name: part}, q.name, count, d.name)
    size = _size(q.extent, 1, limit // part)
    for o in others if count > 1 and part > 1 and size * part >= fewest else ():
        if o.extent >= count:
            yield Rows({q.name: size, d.name: part}, o.name, count, d.name)


@cache
def _size(extent: int, count: int, limit: int) -> int:
    """Rows of each of ``count`` tiles: fewest blocks first, then blocks that need no odd one at the end, then
    the least rows. 0 if the extent does not fill one block.
    """
    best: tuple[tuple[int, bool, int], int] | None = None
    for size in range(1, limit + 1):
        if size * count > extent:
            break
        found = cover(extent, size * count)
        merit = (found.count + found.tail, found.tail, size)
        if best is None or merit < best[0]:
            best = (merit, size)
    return best[1] if best else 0


# An innermost M dim up to this long is never cut, unless it is the only one.
_LONG = 256


def slabs(m: tuple[Dim, ...]) -> Iterator[dict[str, int]]:
    """Boxes of rows: inner dims whole, one dim in equal parts, outer dims one at a time or whole."""
    seen: list[dict[str, int]] = []
    for at, d in enumerate(m):
        # A short innermost dim stays whole: its rows lie side by side.
        for part in _parts(d.extent) if len(m) == 1 or d is not m[-1] or d.extent > _LONG else [d.extent]:
            for outer_whole in (False, True):
                slab = {o.name: o.extent if outer_whole or i > at else 1 for i, o in enumerate(m)}
                slab[d.name] = part
                if slab not in seen:
                    seen.append(slab)
    yield from seen or [{}]


def _parts(extent: int) -> list[int]:
    """Sizes of up to about twenty equal parts, each at least a half larger than the next."""
    counts = [c for c in range(1, min(extent, 64) + 1) if extent % c == 0]
    if len(counts) < 3 and extent > 64:
        counts = [1, 2, 4, 8, 16, 32]
    kept: list[int] = []
    for c in counts:
        if not kept or c >= kept[-1] * 1.5:
            kept.append(c)
    return [ceil(extent / c) for c in kept]
