"""How full each memory on chip is over time: from the first write of its bytes to their last use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opc.npu.access import reads_destination
from opc.npu.engine import WORK
from opc.npu.expand import Static
from opc.npu.listing import Region
from opc.npu.timing import PhaseRun, Timeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CELLS = 4096  # parts of a memory that are followed; a part counts as a whole


@dataclass(frozen=True, slots=True)
class Occupancy:
    """One memory: ``steps`` are (cycle, bytes that hold something from then on), in time order."""

    space: str
    capacity: int
    steps: tuple[tuple[float, int], ...]

    @property
    def peak(self) -> int:
        """Most bytes in use at once."""
        return max((n for _, n in self.steps), default=0)


def occupancy(timeline: Timeline) -> tuple[Occupancy, ...]:
    """Every memory of bounded capacity that the busiest core uses."""
    cells: dict[str, _Cells] = {}
    for space in timeline.machine.spaces.values():
        if space.addressable and space.capacity:
            cells[space.name] = _Cells(space.capacity)
    for number, phase in enumerate(timeline.phases):
        _replay(phase, cells, number)
    found = ((name, c.capacity, c.steps()) for name, c in cells.items())
    return tuple(Occupancy(*item) for item in found if item[2])


class _Cells:
    """A memory in parts: since when each part's present value exists, and until when it has been used."""

    def __init__(self, capacity: int) -> None:
        import numpy as np

        self.capacity = capacity
        self.size = max(1, -(-capacity // CELLS))
        count = -(-capacity // self.size)
        self.born = np.full(count, -1.0)
        self.used = np.zeros(count)
        self.reader = np.full(count, -1, np.int64)  # the instruction that read it last; -1: not read yet
        self.lives: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def read(self, low: int, high: int, instruction: int, complete: float) -> None:
        """Bytes ``low`` to ``high`` are needed until ``complete``."""
        part = self._part(low, high)
        self.used[part] = _later(self.used[part], complete)
        self.reader[part] = instruction

    def write(self, low: int, high: int, instruction: int, start: float, complete: float) -> None:
        """A new value, unless the present one has not been read or the same instruction reads it."""
        part = self._part(low, high)
        fresh = (self.reader[part] >= 0) & (self.reader[part] != instruction)
        fresh |= self.born[part] < 0
        self._end(part, fresh)
        self.born[part] = _choose(fresh, start, self.born[part])
        self.used[part] = _later(_choose(fresh, complete, self.used[part]), complete)
        self.reader[part] = _choose(fresh, -1, self.reader[part])

    def _part(self, low: int, high: int) -> slice:
        return slice(max(0, low) // self.size, -(-high // self.size))

    def _end(self, part: slice, ended: NDArray[np.bool_]) -> None:
        over = ended & (self.born[part] >= 0)
        if over.any():
            self.lives.append((self.born[part][over], self.used[part][over]))

    def steps(self) -> tuple[tuple[float, int], ...]:
        """Bytes in use over time."""
        import numpy as np

        everything = slice(0, len(self.born))
        self._end(everything, self.born >= 0)
        self.born[:] = -1.0
        if not self.lives:
            return ()
        born, used = (np.concatenate(side) for side in zip(*self.lives, strict=True))
        times = np.concatenate((born, used))
        changes = np.concatenate((np.full(len(born), self.size), np.full(len(used), -self.size)))
        moments, where = np.unique(times, return_inverse=True)
        levels = np.cumsum(np.bincount(where, changes, len(moments))).astype(np.int64)
        levels = np.minimum(levels, self.capacity)  # the last part may reach beyond the end
        return tuple(zip(moments.tolist(), levels.tolist(), strict=True))


def _later(times: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    import numpy as np

    return np.maximum(times, time)


def _choose(where: NDArray[np.bool_], value: float, other: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.where(where, other.dtype.type(value), other)


def _replay(phase: PhaseRun, cells: dict[str, _Cells], number: int) -> None:
    """Tell the memories of every access of one phase, in program order."""
    p, run, at = phase.plan, phase.run, phase.offset
    accesses: dict[int, list[tuple[bool, str, int, list[int]]]] = {}
    count = [0] * len(p.trace.statics)
    for position, j in enumerate(p.trace.order):
        if p.kinds[j] != WORK:
            continue
        if j not in accesses:
            accesses[j] = _accesses(p.trace.statics[j], cells)
        k, count[j] = count[j], count[j] + 1
        start, complete = at + run.start[position], at + run.complete[position]
        instruction = position + (number << 40)
        for writes, space, length, addresses in accesses[j]:
            low = addresses[k]
            if low < 0:
                continue
            if writes:
                cells[space].write(low, low + length, instruction, start, complete)
            else:
                cells[space].read(low, low + length, instruction, complete)


def _accesses(s: Static, cells: dict[str, _Cells]) -> list[tuple[bool, str, int, list[int]]]:
    """(writes, space, bytes of the hull, its address at each execution), reads first; address -1: no access."""
    i = s.instruction
    found = []
    for region in i.sources:
        if region.space in cells:
            found.append((False, *_hull(s, region)))
    for region in i.dst:
        if region.space not in cells:
            continue
        space, length, addresses = _hull(s, region)
        merges = reads_destination(s)
        found.append((False, space, length, [a if m else -1 for a, m in zip(addresses, merges, strict=True)]))
    found += [(True, *_hull(s, region)) for region in i.dst if region.space in cells]
    return found


def _hull(s: Static, region: Region) -> tuple[str, int, list[int]]:
    steps = [(e - 1) * stride for e, stride in zip(s.instruction.extents, region.strides, strict=True)]
    below = sum(step for step in steps if step < 0)
    length = sum(map(abs, steps)) + region.dtype.bytes
    return region.space, length, [a + below for a in s.addresses(region)]
