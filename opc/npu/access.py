"""What each execution of an instruction reads and writes, exactly, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from opc.npu.expand import Static
from opc.npu.listing import Instruction, Region
from opc.npu.mnemonics import opcode_of
from opc.program.intervals import Footprint, Runs, box_runs, merged
from opc.program.opcodes import OPCODES


def footprints(s: Static, region: Region, source: bool) -> list[Footprint | None]:
    """The region's bytes at each execution; None where every element is outside the bounds."""
    i = s.instruction
    size = region.dtype.bytes
    addresses = s.addresses(region)
    if not source or not i.bounds:
        runs = box_runs(i.extents, region.strides, size)
        return [Footprint(a, runs) for a in addresses]
    names = [n for n, _ in i.dims]
    forms = [b.form.split(names) for b in i.bounds]
    outer = [s.values(rest) for _, rest in forms]
    steps = [tuple(inner.coefficient(n) for n in names) for inner, _ in forms]
    limits = [b.extent for b in i.bounds]
    known: dict[tuple[int, ...], tuple[int, Runs] | None] = {}
    found: list[Footprint | None] = []
    for k, address in enumerate(addresses):
        at = tuple(values[k] for values in outer)
        if at not in known:
            known[at] = _clipped(i, region, at, steps, limits)
        part = known[at]
        found.append(None if part is None else Footprint(address + part[0], part[1]))
    return found


def _clipped(
    i: Instruction, region: Region, at: tuple[int, ...], steps: list[tuple[int, ...]], limits: list[int]
) -> tuple[int, Runs] | None:
    """(shift, bytes) of the elements inside the bounds, whose outer parts have the values ``at``."""
    size = region.dtype.bytes
    low, high = [0] * len(i.dims), list(i.extents)
    mixed = []
    for value, step, limit in zip(at, steps, limits, strict=True):
        moving = [d for d, c in enumerate(step) if c]
        if len(moving) > 1:
            mixed.append((value, step, limit))
            continue
        if not moving:
            if not 0 <= value < limit:
                return None
            continue
        d, c = moving[0], step[moving[0]]
        # 0 <= value + c*x < limit, for either sign of c.
        first, last = (-value, limit - 1 - value) if c > 0 else (limit - 1 - value, -value)
        low[d] = max(low[d], -(-first // c))
        high[d] = min(high[d], last // c + 1)
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    shift = sum(a * s for a, s in zip(low, region.strides, strict=True))
    extents = tuple(b - a for a, b in zip(low, high, strict=True))
    if not mixed:
        return shift, box_runs(extents, region.strides, size)
    runs = merged(_enumerate(low, extents, region, mixed))
    return (0, runs) if runs else None


def _enumerate(
    low: list[int], extents: tuple[int, ...], region: Region, mixed: list[tuple[int, tuple[int, ...], int]]
) -> Iterator[tuple[int, int]]:
    """Runs of the points inside bounds that couple several dimensions, each such point tried."""
    coupled = sorted({d for _, step, _ in mixed for d, c in enumerate(step) if c})
    free = tuple(1 if d in coupled else e for d, e in enumerate(extents))
    inner = box_runs(free, region.strides, region.dtype.bytes)
    base = sum(low[d] * s for d, s in enumerate(region.strides) if d not in coupled)
    for point in product(*(range(low[d], low[d] + extents[d]) for d in coupled)):
        where = dict(zip(coupled, point, strict=True))
        if all(
            0 <= value + sum(step[d] * x for d, x in where.items()) < limit for value, step, limit in mixed
        ):
            shift = base + sum(region.strides[d] * x for d, x in where.items())
            yield from ((a + shift, b + shift) for a, b in inner)


def reads_destination(s: Static) -> list[bool]:
    """At each execution, whether the instruction merges into what its destination holds."""
    i = s.instruction
    opcode = OPCODES.get(opcode_of(i.mnemonic) or "")
    if opcode is None or not opcode.reduces:
        return [False] * s.count
    merges = [True] * s.count
    if i.init is not None:
        merges = [value != 0 for value in s.values(i.init)]
    if opcode.name == "vector.reduce_moments":
        counts = s.values(i.form) if i.form is not None else [0] * s.count
        merges = [m and n != 0 for m, n in zip(merges, counts, strict=True)]
    return merges
