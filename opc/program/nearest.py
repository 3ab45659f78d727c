"""Dependences within one iteration of a body, in time that grows with the body and not with its square.

A dependence that others imply is left out: where a write covers an earlier access, whatever conflicts with that
access later conflicts with the write too, so the access need not be looked at again. Of each buffer only the
accesses that are not covered are kept, in the cells of a grid whose lines are the edges of all regions. Accesses of
one region are one entry, and each pair of regions is compared once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product

from opc.program.dependence import Dep, Dependences, Span, Touch, kinds_of
from opc.program.ir import Loop

Cell = tuple[int, ...]
CELLS = 64  # a region that lies in more cells is compared with everything


def nearest(known: Dependences, nodes: Sequence[tuple[Touch, ...]], loops: Sequence[Loop]) -> list[Dep]:
    """Dependences of distance 0 whose closure is that of all; ``loops`` surround the body. By target."""
    sweep = _Sweep(known, loops, nodes)
    touches = sweep.touches
    found: list[Dep] = []
    for n, regions in enumerate(sweep.nodes):
        sources: dict[int, Dep] = {}
        for region in regions:
            for kind, earlier in sweep.before(region):
                for source in earlier:
                    if source not in sources:
                        sources[source] = Dep(source, n, kind, 0, touches[region].buffer)
        found += sources.values()
        for region in regions:
            sweep.add(n, region)
    return found


class _Grid:
    """Cells of one buffer: a slot, and the intervals between the edges of its regions on each axis on which those
    have constant distances. A region fills every cell that it lies in, but for the gaps of its steps.
    """

    def __init__(self, touches: Collection[Touch], slots: int) -> None:
        self.slots = slots if all(_constant(t.slot) for t in touches) else 1
        self.edges: dict[int, dict[int, int]] = {}  # per axis the number of each edge
        for axis, spans in enumerate(zip(*[t.axes for t in touches], strict=True)):
            if all(s.base.terms == spans[0].base.terms for s in spans):
                places = {e for s in spans for e in (s.base.const + s.low, s.base.const + s.high + 1)}
                self.edges[axis] = {place: n for n, place in enumerate(sorted(places))}

    def cells(self, touch: Touch) -> list[Cell] | None:
        """Where a region lies; None if it is in too many cells."""
        slot = touch.slot.base.const % self.slots
        ranges = [range(slot, slot + 1)]
        count = 1
        for axis, numbers in self.edges.items():
            span = touch.axes[axis]
            low, high = numbers[span.base.const + span.low], numbers[span.base.const + span.high + 1]
            ranges.append(range(low, high))
            count *= high - low
        return None if count > CELLS else list(product(*ranges))

    def covers(self, whole: Touch, part: Touch) -> bool:
        """Whether ``whole`` may touch, of the cells that it shares with ``part``, all that ``part`` may touch."""
        if whole.slot != part.slot or whole.slot.step:
            return False
        pairs = enumerate(zip(part.axes, whole.axes, strict=True))
        return all(_within(p, w, n in self.edges) for n, (p, w) in pairs)


class _Live:
    """Per cell, the nodes that write, or read, each region there since a later write covered it."""

    def __init__(self) -> None:
        self.cells: dict[Cell, dict[int, list[int]]] = {}
        self.wide: dict[int, list[int]] = {}

    def near(self, cells: Sequence[Cell] | None) -> list[dict[int, list[int]]]:
        """Regions that may meet one in these cells."""
        groups = self.cells.values() if cells is None else [self.cells[c] for c in cells if c in self.cells]
        return [*groups, self.wide] if self.wide else list(groups)

    def add(self, node: int, region: int, cells: Sequence[Cell] | None) -> None:
        """Keep an access."""
        for cell in cells or ():
            self.cells.setdefault(cell, {}).setdefault(region, []).append(node)
        if cells is None:
            self.wide.setdefault(region, []).append(node)


class _Sweep:
    """Regions, and what is live of each buffer that is written: writes, and reads."""

    def __init__(self, known: Dependences, loops: Sequence[Loop], nodes: Sequence[tuple[Touch, ...]]) -> None:
        self.known = known
        self.extents = {loop.var: loop.extent for loop in loops}
        self.same = dict.fromkeys(self.extents, 0)
        distinct: dict[Touch, int] = {}
        raw = [[distinct.setdefault(t, len(distinct)) for t in node] for node in nodes]
        written = {t.buffer for t in distinct if t.writes}
        written |= {name for buffer in written for name in known.aliases(buffer)}
        boxes: dict[str, list[Touch]] = {}
        for touch in distinct:
            boxes.setdefault(touch.buffer, []).append(touch)
        self.grids = {
            name: _Grid(found, known.buffers[name].slots) for name, found in boxes.items() if name in written
        }
        self.live = {name: (_Live(), _Live()) for name in self.grids}
        self.touches: list[Touch] = []  # of each region
        self.cells: list[list[Cell] | None] = []
        self._numbers: dict[Touch, int] = {}
        self._kinds: dict[tuple[int, int], str] = {}
        self._covers: dict[tuple[int, int, bool], bool] = {}
        regions = [self._number(touch) for touch in distinct]
        # The regions that each node touches; of buffers that nobody writes, none.
        self.nodes = [[regions[t] for t in node if regions[t] >= 0] for node in raw]

    def _number(self, touch: Touch) -> int:
        """The region of an access; -1 if nobody writes the buffer."""
        grid = self.grids.get(touch.buffer)
        if grid is None:
            return -1
        if grid.slots > 1 and not 0 <= touch.slot.base.const < grid.slots:
            slot = touch.slot.base.const % grid.slots
            touch = touch._replace(slot=Span(touch.slot.base - touch.slot.base.const + slot, 0, 0, 0))
        number = self._numbers.setdefault(touch, len(self.touches))
        if number == len(self.touches):
            self.touches.append(touch)
            self.cells.append(grid.cells(touch))
        return number

    def before(self, region: int) -> Iterator[tuple[str, list[int]]]:
        """How ``region`` conflicts with live ones, and the nodes that touched them."""
        touch = self.touches[region]
        for name in self.known.aliases(touch.buffer):
            cells = self.cells[region] if name == touch.buffer else None
            for there in self.live[name][: 2 if touch.writes else 1] if name in self.live else ():
                for group in there.near(cells):
                    for other, nodes in group.items():
                        if kind := self._kind(other, region):
                            yield kind, nodes

    def add(self, node: int, region: int) -> None:
        """Keep an access, and drop those that it covers."""
        touch, cells = self.touches[region], self.cells[region]
        writes, reads = self.live[touch.buffer]
        for there in (writes, reads) if touch.writes else ():
            for group in there.near(cells):
                for other in [
                    o for o in group if self._cover(region, o, group is there.wide or cells is None)
                ]:
                    del group[other]
        (writes if touch.writes else reads).add(node, region, cells)

    def _kind(self, first: int, second: int) -> str:
        """How the second region depends on the first; "" if they do not conflict."""
        found = self._kinds.get((first, second))
        if found is None:
            a, b = self.touches[first], self.touches[second]
            found = kinds_of(a, b)[0] if self.known.meet(a, b, self.same, self.extents) else ""
            self._kinds[first, second] = found
        return found

    def _cover(self, whole: int, part: int, everywhere: bool) -> bool:
        """Whether a write of ``whole`` lets ``part`` be forgotten: in the cells they share, or everywhere."""
        found = self._covers.get((whole, part, everywhere))
        if found is None:
            first, second = self.touches[whole], self.touches[part]
            found = self.grids[first.buffer].covers(first, second)
            found = found and (not everywhere or all(map(_within, second.axes, first.axes)))
            self._covers[whole, part, everywhere] = found
        return found


def _constant(slot: Span) -> bool:
    return not (slot.step or slot.base.terms)


def _within(part: Span, whole: Span, in_cell: bool = False) -> bool:
    """Whether the values of ``part`` are values of ``whole``; ``in_cell``: where ``whole`` reaches."""
    if part.base.terms != whole.base.terms:
        return False
    shift = part.base.const - whole.base.const
    if not in_cell and (shift + part.low < whole.low or shift + part.high > whole.high):
        return False
    return whole.step <= 1 or (
        part.step % whole.step == 0 and (shift + part.low - whole.low) % whole.step == 0
    )
