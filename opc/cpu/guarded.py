"""Copies under checks into registers, which have no addresses to split a box at."""

from __future__ import annotations

from math import prod

from opc.affine import Affine
from opc.cpu import access, checks, nest, values
from opc.cpu.elementwise import UNROLL_LIMIT
from opc.cpu.function import Function
from opc.cpu.values import Vec


def emit(f: Function, g: checks.Gather, dims: list[nest.Dim]) -> None:
    """Each vector is loaded under its checks."""
    if not dims:
        f.bind({"one.": 0})
        dims = [nest.Dim("one.", 1)]
    unit = [d for d in dims if g.dst.stride(d.name) == 1]
    inner = unit[0] if unit else dims[-1]
    outer = [d for d in dims if d is not inner]
    width = max(g.dst.dtype.compute.bytes, g.src.dtype.compute.bytes)
    lanes = min(f.module.vector_bytes // width, 1 << (inner.extent - 1).bit_length())
    varying = any(c.form.coefficient(inner.name) for c in g.checks)
    contiguous = g.src.stride(inner.name) == 1 and lanes > 1

    def row(live: int) -> None:
        if contiguous and not varying:
            value = _whole(f, g, inner.name, lanes, live)
        elif contiguous and g.src.dtype.bytes >= 4:
            value = _masked(f, g, inner.name, lanes, live)
        else:
            value = _by_lanes(f, g, inner.name, lanes, live)
        access.store(f, g.dst, inner.name, value, live)

    unroll = -(-inner.extent // lanes) * prod(d.extent for d in outer) <= UNROLL_LIMIT
    nest.walk(f, outer, lambda: nest.chunks(f, inner, lanes, row, unroll), unroll)


def _whole(f: Function, g: checks.Gather, dim: str, lanes: int, live: int) -> Vec:
    """All lanes are inside or none is: one load, from the buffer's start if they are not."""
    inside = checks.all_of(f, [checks.holds(f, c) for c in g.checks])
    along = g.src.form.coefficient(dim)
    start = f.pointer(g.src.base, g.src.form.substitute({dim: 0}))
    # The unchecked dimension lies in the buffer wherever it begins, so it fits at the buffer's first element.
    at = f.op(f"select i1 {inside}, ptr {start}, ptr {g.src.base}")
    pointer = f.op(f"getelementptr i8, ptr {at}, i64 {f.index(Affine.var(dim, along))}")
    raw = values.load_raw(f, g.src.dtype, pointer, lanes, live)
    loaded = values.widen(f, g.src.dtype, raw)
    fill = checks.fill_of(f, g, lanes)
    return values.select(f, values.broadcast(f, Vec("i1", 1, inside), lanes), loaded, fill)


def _masked(f: Function, g: checks.Gather, dim: str, lanes: int, live: int) -> Vec:
    """A masked load; lanes outside keep the fill value and touch no memory."""
    mask = Vec(
        "i1", lanes, "<" + ", ".join(f"i1 {'true' if i < live else 'false'}" for i in range(lanes)) + ">"
    )
    for c in g.checks:
        mask = values.binary(f, "and", mask, _lanes_inside(f, c, dim, lanes))
    kind, fill = str(g.src.dtype), checks.fill_of(f, g, lanes)
    pointer = f.pointer(g.src.base, g.src.form)
    name = f"llvm.masked.load.{values.mangled(kind, lanes)}.p0"
    types = ["ptr", "i32", mask.type, fill.type]
    ref = f.call(name, fill.type, [pointer, str(g.src.dtype.bytes), mask.ref, fill.ref], types)
    return Vec(kind, lanes, ref)


def _lanes_inside(f: Function, c: checks.Check, dim: str, lanes: int) -> Vec:
    """The check for each of ``lanes`` values of ``dim``."""
    step = c.form.coefficient(dim)
    if not step:
        return values.broadcast(f, Vec("i1", 1, checks.holds(f, c)), lanes)
    start = f.index(c.form)
    steps = Vec("i32", lanes, "<" + ", ".join(f"i32 {i * step}" for i in range(lanes)) + ">")
    if isinstance(start, int):
        base = values.splat("i32", lanes, start)
    else:
        base = values.broadcast(f, Vec("i32", 1, f.op(f"trunc i64 {start} to i32")), lanes)
    index = values.binary(f, "add", base, steps)
    return values.compare(f, "icmp ult", index, values.splat("i32", lanes, c.size))


def _by_lanes(f: Function, g: checks.Gather, dim: str, lanes: int, live: int) -> Vec:
    """Lane by lane from an address that is always valid."""
    fill = checks.fill_of(f, g, 1)

    def lane(i: int) -> Vec:
        ahead = {dim: Affine.var(dim) + i}
        inside = checks.all_of(
            f, [checks.holds(f, checks.Check(c.form.substitute(ahead), c.size)) for c in g.checks]
        )
        start = f.pointer(g.src.base, g.src.form.substitute(ahead))
        at = f.op(f"select i1 {inside}, ptr {start}, ptr {g.src.base}")
        raw = values.load_raw(f, g.src.dtype, at, 1, 1)
        return values.select(f, Vec("i1", 1, inside), values.widen(f, g.src.dtype, raw), fill)

    if lanes == 1:
        return lane(0)
    value = values.broadcast(f, fill, lanes)
    for i in range(live):
        value = values.insert(f, value, i, lane(i))
    return value
