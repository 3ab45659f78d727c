"""Which bytes each execution touches, element by element: slow, and sharing no code with the checker's regions.

A set of bytes is one Python integer with a bit per byte, so two sets meet where their bitwise and is not 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from opc.npu.engine import WORK, Plan
from opc.npu.expand import Static
from opc.npu.listing import Listing, Region

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

Bytes = dict[str, int]  # memory -> a bit per byte


def touched(plan: Plan, listing: Listing) -> list[tuple[Bytes, Bytes]]:
    """(read, written) of every instruction that is not synchronisation, in program order.

    What an instruction merges into counts as written: everything that conflicts with a read conflicts with a write.
    """
    known = [list(_executions(s, listing)) if kind == WORK else [] for s, kind in _texts(plan)]
    count = [0] * len(plan.kinds)
    found = []
    for j in plan.trace.order:
        if plan.kinds[j] == WORK:
            found.append(known[j][count[j]])
            count[j] += 1
    return found


def conflicts(touched: list[tuple[Bytes, Bytes]]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) that share a byte which one of them writes."""
    found = []
    for b, (reads, writes) in enumerate(touched):
        for a in range(b):
            before, changed = touched[a]
            if _meet(changed, reads) or _meet(changed, writes) or _meet(before, writes):
                found.append((a, b))
    return found


def _meet(one: Bytes, two: Bytes) -> bool:
    return any(bits & two.get(memory, 0) for memory, bits in one.items())


def _texts(plan: Plan) -> Iterator[tuple[Static, int]]:
    yield from zip(plan.trace.statics, plan.kinds, strict=True)


def _executions(s: Static, listing: Listing) -> Iterator[tuple[Bytes, Bytes]]:
    i = s.instruction
    known: dict[tuple[int, ...], int] = {}
    bases = {id(r): s.addresses(r) for r in (*i.dst, *i.sources)}
    outer = [s.values(b.form.split([n for n, _ in i.dims])[1]) for b in i.bounds]
    for k in range(s.count):
        pair: tuple[Bytes, Bytes] = ({}, {})
        for region, into in (*((r, 0) for r in i.sources), *((r, 1) for r in i.dst)):
            at = bases[id(region)][k]
            limits = tuple(v[k] for v in outer) if into == 0 else ()
            key = (id(region), at, *limits)
            if key not in known:
                known[key] = _bits(s, region, at, limits)
            memory, shift = region.space, 0
            if region.tensor:
                tensor = listing.tensor(region.tensor)
                memory, shift = f"gm:{tensor.blob}", tensor.offset
            pair[into][memory] = pair[into].get(memory, 0) | known[key] << shift
        yield pair


def _bits(s: Static, region: Region, at: int, limits: tuple[int, ...]) -> int:
    i = s.instruction
    guards = tuple(
        (value, bound.extent, tuple(bound.form.coefficient(n) for n, _ in i.dims))
        for bound, value in zip(i.bounds, limits, strict=False)
    )
    low, bits = _pattern(i.extents, region.strides, region.dtype.bytes, guards)
    return bits << at + low if at + low >= 0 else bits >> -at - low


@lru_cache(maxsize=4096)
def _pattern(
    extents: tuple[int, ...],
    strides: tuple[int, ...],
    size: int,
    guards: tuple[tuple[int, int, tuple[int, ...]], ...],
) -> tuple[int, int]:
    """(first byte, bits from there) of the elements inside the guards, the first element of the box at byte 0."""
    import numpy as np

    grid = np.indices(extents, np.int64).reshape(len(extents), prod(extents))
    address = np.array(strides, np.int64) @ grid
    inside = np.ones(address.shape, bool)
    for value, extent, steps in guards:
        position = value + np.array(steps, np.int64) @ grid
        inside &= (position >= 0) & (position < extent)
    first = address[inside]
    if not first.size:
        return 0, 0
    low = int(first.min())
    marks = np.zeros(int(first.max()) - low + size, bool)
    for n in range(size):
        marks[first - low + n] = True
    return low, int.from_bytes(np.packbits(marks, bitorder="little").tobytes(), "little")
