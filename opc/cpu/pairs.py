"""Copies that lay rows side by side, element by element: what tile registers multiply comes in pairs of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu import access, nest, values
from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.cpu.values import Vec

_FEW = 4  # blocks that are not looped over


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows contiguous along ``along`` become one row in which neighbours along ``across`` are neighbours;
    ``size`` elements of each row at a time.
    """

    dst: View
    src: View
    along: str
    across: str
    size: int


def find(f: Function, dst: View, src: View, extents: Sequence[tuple[str, int]]) -> Pairs | None:
    """The dimensions, if both views are in memory, bits are copied unchanged and rows are as long as a vector."""
    along = [(n, e) for n, e in extents if src.stride(n) == 1 and dst.stride(n) == 2]
    across = [n for n, e in extents if dst.stride(n) == 1 and e == 2 and src.stride(n) > 1]
    if dst.register or src.register or dst.dtype is not src.dtype or len(along) != 1 or len(across) != 1:
        return None
    size = f.module.vector_bytes // dst.dtype.bytes // 2
    return Pairs(dst, src, along[0][0], across[0], size) if along[0][1] >= size // 2 else None


def row(f: Function, p: Pairs, along: nest.Dim) -> None:
    """All blocks of a pair of rows."""
    short = along.extent <= _FEW * p.size
    nest.chunks(f, along, p.size, lambda live: _block(f, p, live), short)


def _block(f: Function, p: Pairs, live: int) -> None:
    """One block, at the current value of ``along``: ``live`` of its elements."""
    f.bind({p.across: 0})
    rows = []
    for n in range(2):
        row = replace(p.src, form=p.src.form.substitute({p.across: Affine((), n)}))
        rows.append(access.load(f, row, p.along, p.size, live, raw=True))
    first, second = rows
    order = ", ".join(f"i32 {i // 2 + p.size * (i % 2)}" for i in range(2 * p.size))
    text = (
        f"shufflevector {first.type} {first.ref}, {second.type} {second.ref}, <{2 * p.size} x i32> <{order}>"
    )
    both = Vec(first.kind, 2 * p.size, f.op(text))
    target = replace(p.dst, form=p.dst.form.substitute({p.across: 0}))
    values.store_raw(f, target.dtype, f.pointer(target.base, target.form), both, 2 * live)
