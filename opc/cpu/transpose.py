"""Copies that swap which dimension is contiguous: square blocks, turned in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu import access
from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.cpu.values import Vec


@dataclass(frozen=True, slots=True)
class Turn:
    """A copy whose source is contiguous along ``along`` and whose destination is along ``across``."""

    dst: View
    src: View
    along: str
    across: str
    size: int  # of a block, a power of two

    @property
    def move(self) -> bool:
        """True if bits are copied unchanged."""
        return self.dst.dtype is self.src.dtype


def find(f: Function, dst: View, src: View, extents: Sequence[tuple[str, int]]) -> Turn | None:
    """The dimensions to turn, if both views are in memory and a block fits."""
    along = [(n, e) for n, e in extents if src.stride(n) == 1 and dst.stride(n) not in (0, 1)]
    across = [(n, e) for n, e in extents if dst.stride(n) == 1 and src.stride(n) not in (0, 1)]
    if dst.register or src.register or not along or not across:
        return None
    size = f.module.vector_bytes // max(4, dst.dtype.bytes, src.dtype.bytes)
    if min(along[0][1], across[0][1]) < size:
        return None
    return Turn(dst, src, along[0][0], across[0][0], size)


def block(f: Function, t: Turn) -> None:
    """One block, at the current values of the two dimensions."""

    def ahead(v: View, dim: str, by: int) -> View:
        return replace(v, form=v.form.substitute({dim: Affine.var(dim) + by})) if by else v

    rows = [
        access.load(f, ahead(t.src, t.across, i), t.along, t.size, t.size, raw=t.move) for i in range(t.size)
    ]
    for i, row in enumerate(turned(f, rows)):
        access.store(f, ahead(t.dst, t.along, i), t.across, row, t.size, raw=t.move)


def turned(f: Function, rows: Sequence[Vec]) -> list[Vec]:
    """The transpose of as many vectors as they have lanes: swap halves, quarters, … of pairs of rows."""
    found = list(rows)
    count = len(found)
    step = 1
    while step < count:
        low = [i if not i & step else count + i - step for i in range(count)]
        high = [i + step if not i & step else count + i for i in range(count)]
        for i in range(count):
            if not i & step:
                a, b = found[i], found[i + step]
                found[i], found[i + step] = _shuffle(f, a, b, low), _shuffle(f, a, b, high)
        step *= 2
    return found


def _shuffle(f: Function, a: Vec, b: Vec, order: Sequence[int]) -> Vec:
    lanes = ", ".join(f"i32 {i}" for i in order)
    text = f"shufflevector {a.type} {a.ref}, {b.type} {b.ref}, <{a.lanes} x i32> <{lanes}>"
    return Vec(a.kind, a.lanes, f.op(text))
