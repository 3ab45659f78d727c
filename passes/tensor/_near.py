"""What row work costs in one nest and apart: room, and cycles where a vector unit has a memory of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from opc.dtypes import DType
from opc.machine.model import Machine
from opc.tensor.ir import Dim, Op, Read, Tensor, reads

# An op that shares one element in so many of its own with a group is not worth moving there.
_COMMON = 4
# Prices of nests that differ by less are equal: what one op more costs, the next may bring back.
_SLACK = 1.02


def largest(ops: Sequence[Op]) -> dict[str, int]:
    """The extent of every dim; the largest where several ops have one of that name."""
    found: dict[str, int] = {}
    for name, extent in (item for op in ops for item in op.pieces[0].extents.items()):
        found[name] = max(extent, found.get(name, 0))
    return found


@dataclass(frozen=True)
class Near:
    """The memory beside the vector unit. ``lanes``: elements that one step along memory takes at least. ``cached``:
    what was read stays there by itself.
    """

    room: float
    lanes: int
    cached: bool

    @staticmethod
    def of(machine: Machine) -> Near:
        """Half of it is for a group, the other half for operands."""
        cached = not machine.role("vector").addressable
        lanes = machine.vector_bytes // DType.F32.bytes if cached else 1
        for role in ("vector", "scratch", "stage"):
            if machine.has_role(role) and machine.role(role).addressable and machine.role(role).capacity:
                return Near(machine.role(role).capacity / 2, lanes, cached)
        return Near(float("inf"), lanes, cached)

    def holds(self, ops: Sequence[Op], shared: tuple[Dim, ...], tensors: Mapping[str, Tensor]) -> bool:
        """Whether there is room for what an iteration over the shared dims makes for later ops of the group, and,
        where it would stay, what several of them read.
        """
        names = {d.name for d in shared}
        made = {t.name for op in ops for t in op.outputs}
        readers = Counter(name for op in ops for name in {r.tensor for r in reads(op)})
        kept: dict[str, int] = {}
        for op, read in ((o, r) for o in ops for r in reads(o)):
            again = self.cached and readers[read.tensor] > 1
            if read.tensor in made or again:
                size = self._row(op, read, names, tensors[read.tensor])
                kept[read.tensor] = max(size, kept.get(read.tensor, 0))
        return sum(kept.values()) <= self.room

    def gains(self, ops: Sequence[Op], op: Op, tensors: Mapping[str, Tensor]) -> bool:
        """Whether what ``op`` shares with the group is much beside its own work. For the rest it would have to go the
        way of the group, which need not be the way its operands lie in memory.
        """
        piece = op.pieces[0]
        made, given = {t.name for o in ops for t in o.outputs}, {t.name for t in op.outputs}
        mine = {r.tensor for r in reads(op)}
        theirs = {r.tensor for o in ops for r in reads(o)}
        common = (mine & made) | (theirs & given) | (mine & theirs)
        elements = sum(prod(tensors[name].shape) for name in common)
        return not self.cached or _COMMON * elements >= prod(d.extent for d in (*piece.dims, *piece.reduce))

    def _row(self, op: Op, read: Read, shared: set[str], tensor: Tensor) -> int:
        """Bytes that ``op`` reads in an iteration, which has ``lanes`` rows where a shared dim runs along memory."""
        piece = op.pieces[0]
        used = {n for form in read.index for n in form.names}
        size = prod(d.extent for d in (*piece.dims, *piece.reduce) if d.name in used - shared)
        along = bool(read.index) and bool(read.index[tensor.memory_order[-1]].names & shared)
        return size * tensor.dtype.compute.bytes * (self.lanes if along and size > 1 else 1)


Some = Mapping[int, Op]  # ops by their position


@dataclass
class Prices:
    """Cycles of nests; each is worked out once."""

    tensors: dict[str, Tensor]
    results: frozenset[str]
    machine: Machine
    known: dict[tuple[tuple[Op, ...], frozenset[str]], float] = field(default_factory=dict)

    def pays(self, ops: Sequence[Op], group: Some, joining: Some, apart: Sequence[Some]) -> bool:
        """Whether one nest takes no longer than the group and what would join it, one after the other."""
        whole = {**group, **joining}
        inside = {t.name for op in whole.values() for t in op.outputs}
        if any(r.tensor in inside and r.fill is not None for op in whole.values() for r in reads(op)):
            return False
        return self._cycles(ops, whole) <= _SLACK * sum(self._cycles(ops, some) for some in (group, *apart))

    def _cycles(self, ops: Sequence[Op], some: Some) -> float:
        from passes.lowering._rows import group_cycles

        own = tuple(some[m] for m in sorted(some))
        read = {r.tensor for i, op in enumerate(ops) if i not in some for r in reads(op)}
        leaving = frozenset(t.name for op in own for t in op.outputs if t.name in read | self.results)
        if (own, leaving) not in self.known:
            self.known[own, leaving] = group_cycles(own, self.tensors, leaving, self.machine)
        return self.known[own, leaving]
