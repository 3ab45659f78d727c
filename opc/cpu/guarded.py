"""Copies under checks into registers, which have no addresses to split a box at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from opc.affine import Affine
from opc.cpu import access, checks, nest, strided, values
from opc.cpu.elementwise import UNROLL_LIMIT
from opc.cpu.function import Function
from opc.cpu.values import Vec

FILLS = 4096  # bytes of fill values, at most, that are kept to make a choice outside a loop


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

    raw = g.src.dtype is g.dst.dtype  # bits, moved as they are

    def row(live: int) -> None:
        access.store(f, g.dst, inner.name, _loaded(f, g, inner.name, lanes, live, raw), live, raw=raw)

    unroll = -(-inner.extent // lanes) * prod(d.extent for d in outer) <= UNROLL_LIMIT
    nest.walk(f, outer, lambda: nest.chunks(f, inner, lanes, row, unroll), unroll)


def _loaded(f: Function, g: checks.Gather, dim: str, lanes: int, live: int, raw: bool) -> Vec:
    """One vector, by the cheapest way that its checks leave, in the compute type or (``raw``) as stored."""
    ranges = [(c, _lanes_known(f, c, dim, live)) for c in g.checks]
    left = tuple(c for c, known in ranges if known != range(live))
    if not left:
        return access.load(f, g.src, dim, lanes, live, raw=raw)
    g = replace(g, checks=left)
    varying = [c for c in left if c.form.coefficient(dim)]
    known = [r for c, r in ranges if c in varying]
    if 0 < g.src.stride(dim) <= strided.MOST and lanes > 1 and all(r is not None for r in known):
        low = max((r.start for r in known if r is not None), default=0)
        high = min((r.stop for r in known if r is not None), default=live)
        return _part(f, g, dim, lanes, range(low, high), raw)
    if g.src.stride(dim) == 1 and lanes > 1 and g.src.dtype.bytes >= 4:
        return _masked(f, g, dim, lanes, live)  # words are stored as they are computed with
    value = _by_lanes(f, g, dim, lanes, live)
    return values.narrow(f, g.src.dtype, value) if raw else value


def _lanes_known(f: Function, c: checks.Check, dim: str, live: int) -> range | None:
    """The lanes that pass a check, where that is known now."""
    terms, start = f.known(c.form)
    if terms:
        return None
    step = c.form.coefficient(dim)
    inside = [i for i in range(live) if 0 <= start + i * step < c.size]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def _part(f: Function, g: checks.Gather, dim: str, lanes: int, inside: range, raw: bool) -> Vec:
    """Lanes ``inside`` pass the checks that vary; the others pass or fail for all lanes."""
    fill = values.narrow(f, g.src.dtype, checks.fill_of(f, g, lanes))
    if not inside:
        return fill if raw else values.widen(f, g.src.dtype, fill)
    fixed = tuple(c for c in g.checks if not c.form.coefficient(dim))
    if fixed:
        base = _inside_or_fill(f, replace(g, checks=fixed), dim)

        def at(k: int) -> str:
            return f.op(f"getelementptr i8, ptr {base}, i64 {k * g.src.dtype.bytes}") if k else base

    else:

        def at(k: int) -> str:
            return f.pointer(g.src.base, g.src.form + k * g.src.dtype.bytes)

    bits = strided.load(f, g.src.dtype, at, g.src.stride(dim), lanes, inside, fill)
    return bits if raw else values.widen(f, g.src.dtype, bits)


def _inside_or_fill(f: Function, g: checks.Gather, dim: str) -> str:
    """The address of the element, or of fill values that reach as far along ``dim`` and the loops that no check
    reads: outside those, the choice is made once.
    """
    inside = checks.all_of(f, [checks.holds(f, c) for c in g.checks])
    free = {dim, *_unchecked(g, dim)}
    steps = Affine(tuple(t for t in g.src.form.terms if t[0] in free))
    start = f.pointer(g.src.base, g.src.form - steps)
    reach = steps.interval({"one.": 1, **g.loops, **g.instr.extents})[1] // g.src.dtype.bytes
    choice = f"select i1 {inside}, ptr {start}, ptr {_fill_row(f, g, reach + 1)}"
    return f.pointer(f.hoisted(choice, inside, start), steps)


def _unchecked(g: checks.Gather, dim: str) -> Iterator[str]:
    """The innermost loops that no check reads, if they walk forwards and over not too many fill values."""
    checked = {n for c in g.checks for n in c.form.names}
    reach = 0
    for name, extent in reversed(g.loops.items()):
        step = g.src.form.coefficient(name)
        reach += step * (extent - 1)
        if name in checked or step < 0 or reach > FILLS:
            return
        if step and name != dim:
            yield name


def _fill_row(f: Function, g: checks.Gather, count: int) -> str:
    """A constant array of fill values: choosing an address is cheaper than choosing every vector."""
    kind = str(g.src.dtype)
    bits = values.literal_bits(g.src.dtype, g.instr.fill or 0)
    size = 1 << (count - 1).bit_length()
    name = f"fill.{kind}.{size}.{bits:x}"
    row = ", ".join([f"i{8 * g.src.dtype.bytes} {bits}"] * size)
    f.module.define(
        name, f'@"{name}" = internal constant [{size} x i{8 * g.src.dtype.bytes}] [{row}], align 64'
    )
    return f'@"{name}"'


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
