"""Copies that widen short rows: pixels of three channels that lie side by side become pixels of four."""

from __future__ import annotations

from dataclasses import dataclass

from opc.cpu import access, values
from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.cpu.values import Vec

LONGEST = 8  # elements of a row; longer ones are worth a copy each


@dataclass(frozen=True, slots=True)
class Spread:
    """Rows of ``narrow`` elements, dense along ``along``, become rows of ``wide`` ones, ``size`` at a time."""

    dst: View
    src: View
    along: str
    inner: str
    narrow: int
    wide: int
    size: int


def find(f: Function, dst: View, src: View, along: str, inner: str, narrow: int, wide: int) -> Spread | None:
    """The copy as such a widening, if both views are in memory and a vector takes several rows."""
    ones = dst.stride(inner) == src.stride(inner) == 1
    dense = dst.stride(along) == wide and src.stride(along) == narrow
    size = f.module.vector_bytes // dst.dtype.bytes // wide
    if dst.register or src.register or dst.dtype is not src.dtype or not ones or not dense:
        return None
    return (
        Spread(dst, src, along, inner, narrow, wide, size)
        if 0 < narrow < wide <= LONGEST and size > 1
        else None
    )


def block(f: Function, s: Spread, fill: Vec) -> None:
    """``size`` rows at once, at the current value of ``along``; ``fill`` goes where no element comes from."""
    f.bind({s.inner: 0})
    rows = _rows(f, s)
    blank = values.broadcast(f, fill, rows.lanes)
    lanes = ", ".join(
        f"i32 {row * s.narrow + at if at < s.narrow else rows.lanes}"
        for row in range(s.size)
        for at in range(s.wide)
    )
    count = s.size * s.wide
    text = f"shufflevector {rows.type} {rows.ref}, {blank.type} {blank.ref}, <{count} x i32> <{lanes}>"
    access.store(f, s.dst, s.inner, Vec(rows.kind, count, f.op(text)), count, raw=True)


def _rows(f: Function, s: Spread) -> Vec:
    """The source's elements in a vector that may be longer."""
    count, kind = s.size * s.narrow, str(s.src.dtype)
    words, rest = divmod(count * s.src.dtype.bytes, 4)
    if rest:
        return access.load(f, s.src, s.inner, count, count, raw=True)
    # Odd lengths load well under a mask only, and masks are for words.
    lanes = f.module.vector_bytes // 4
    mask = "<" + ", ".join(f"i1 {'true' if i < words else 'false'}" for i in range(lanes)) + ">"
    type_, pointer = f"<{lanes} x i32>", f.pointer(s.src.base, s.src.form)
    arguments = [pointer, str(s.src.dtype.bytes), mask, "zeroinitializer"]
    loaded = f.call(
        f"llvm.masked.load.v{lanes}i32.p0", type_, arguments, ["ptr", "i32", f"<{lanes} x i1>", type_]
    )
    wide = lanes * 4 // s.src.dtype.bytes
    return Vec(kind, wide, f.op(f"bitcast {type_} {loaded} to {values.llvm_type(kind, wide)}"))
