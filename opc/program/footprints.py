"""Distinct byte regions of one memory and which of them overlap, for the checker."""

from __future__ import annotations

from opc.program.intervals import Footprint, Runs, overlap

_BUCKETS = 512


class Memory:
    """Regions are numbered as they appear; ``adjacent[r]`` are those that share a byte with r (r included).

    ``reads`` and ``writes`` hold, per region and pipe, the last access as (number on the pipe, position
    in program order). Later accesses of a pipe never complete before earlier ones are known to, so the
    last one stands for all.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.regions: list[Footprint] = []
        self.adjacent: list[list[int]] = []
        self.reads: list[dict[int, tuple[int, int]]] = []
        self.writes: list[dict[int, tuple[int, int]]] = []
        self._ids: dict[tuple[int, int], int] = {}
        self._shift = max(0, (size // _BUCKETS).bit_length())
        self._buckets: dict[int, list[int]] = {}
        self._overlaps: dict[tuple[int, int, int], bool] = {}

    def intern(self, footprint: Footprint) -> int:
        """The number of a region."""
        # Equal shapes share one tuple of runs, so its identity is enough (and cheap to hash).
        key = (id(footprint.runs), footprint.address)
        number = self._ids.get(key)
        return self._ids.setdefault(key, self._add(footprint)) if number is None else number

    def _add(self, new: Footprint) -> int:
        number = len(self.regions)
        low, high = new.low, new.high
        near: set[int] = set()
        for bucket in range(low >> self._shift, (high - 1 >> self._shift) + 1):
            members = self._buckets.setdefault(bucket, [])
            near.update(members)
            members.append(number)
        self.regions.append(new)
        self.adjacent.append([number])
        self.reads.append({})
        self.writes.append({})
        for other in sorted(near):
            old = self.regions[other]
            if old.low < high and old.high > low and self._meet(new, old):
                self.adjacent[other].append(number)
                self.adjacent[number].append(other)
        return number

    def _meet(self, a: Footprint, b: Footprint) -> bool:
        if len(a.runs) == 1 and len(b.runs) == 1:
            return True
        key = (id(a.runs), id(b.runs), b.address - a.address)
        found = self._overlaps.get(key)
        if found is None:
            found = self._overlaps[key] = overlap(a.runs, b.runs, b.address - a.address) is not None
        return found

    def shared(self, a: int, b: int) -> tuple[int, int]:
        """The first run of bytes that two adjacent regions share."""
        x, y = self.regions[a], self.regions[b]
        found = overlap(x.runs, y.runs, y.address - x.address)
        assert found is not None, "adjacent regions overlap"
        return found[0] + x.address, found[1] + x.address

    def runs(self, number: int) -> tuple[Runs, int]:
        """(runs, shift) of a region."""
        return self.regions[number].runs, self.regions[number].address
