"""cube.mma on vector registers: an outer-product block whose accumulators live in SSA values.

Columns (the destination's contiguous dimension) are lanes, rows are broadcasts; every reduced dimension
is a rolled loop that carries the accumulators, the innermost unrolled a few times. Where both operands hold
pairs of bf16 terms side by side and the processor adds two products at once, a lane takes a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu import access, nest, prefetch, values
from opc.cpu.function import Function, Index
from opc.cpu.layout import View, lanes_of
from opc.cpu.values import Vec
from opc.dtypes import DType
from opc.program.ir import Instr

BLOCK = 32  # accumulators carried at once; more are done block after block
STEPS = 32  # multiply-adds in an unrolled loop body
_NARROWEST = 4  # lanes of a dot product of pairs
_Loaded = dict[tuple[str, Affine, int, int], Vec]  # by base, address, stride and lanes that hold elements


@dataclass(frozen=True, slots=True)
class Mma:
    """A cube.mma with its operands linearised. ``ahead``: how many multiply-adds before its use a line of
    ``b`` is asked for; 0: not at all.
    """

    instr: Instr
    dst: View
    a: View
    b: View
    ahead: int = 0
    line: int = 64

    @property
    def kind(self) -> str:
        return str(self.dst.dtype.compute)


@dataclass(frozen=True, slots=True)
class _Plan:
    """``rows`` are unrolled; the box is cut along ``outer`` so that a block's accumulators fit."""

    column: nest.Dim
    lanes: int
    rows: list[nest.Dim]
    outer: list[nest.Dim]
    reduced: list[nest.Dim]
    pair: str = ""  # the summed dim whose two terms are one 32-bit word in both operands


def emit(f: Function, m: Mma) -> None:
    """Emit the whole instruction."""
    dims = nest.significant(f, m.instr.dims)
    dims, forms = nest.merge(dims, [m.dst.form, m.a.form, m.b.form])
    m = replace(
        m, **{n: replace(getattr(m, n), form=x) for n, x in zip(("dst", "a", "b"), forms, strict=True)}
    )
    plan = _plan(f, m, dims)
    if plan.pair:
        f.bind({plan.pair: 0})
    nest.walk(f, plan.outer, lambda: _wide(f, m, plan), unroll=m.dst.register)


def _wide(f: Function, m: Mma, plan: _Plan) -> None:
    """Cut columns that need more accumulators than a block holds."""
    width, extent, name = plan.lanes * BLOCK, plan.column.extent, plan.column.name
    if extent <= width:
        _block(f, m, plan)
        return

    def part(i: Index, _: list[str]) -> list[str]:
        f.bind({"part.": i})
        ahead = {name: Affine.var(name) + Affine.var("part.")}
        moved = {
            n: replace(getattr(m, n), form=getattr(m, n).form.substitute(ahead)) for n in ("dst", "a", "b")
        }
        _block(f, replace(m, **moved), replace(plan, column=nest.Dim(name, min(width, extent - at))))
        return []

    at, full = 0, extent // width * width
    f.loop(full, part, step=width)
    at = full
    if full < extent:
        part(full, [])


def _plan(f: Function, m: Mma, dims: list[nest.Dim]) -> _Plan:
    kept = [d for d in dims if m.dst.form.coefficient(d.name)]
    reduced = [d for d in dims if not m.dst.form.coefficient(d.name)]
    if not kept:
        kept = [nest.Dim("one.", 1)]
        f.bind({"one.": 0})

    def merit(d: nest.Dim) -> tuple[int, int]:
        strides = [m.b.stride(d.name), m.a.stride(d.name)]
        return (m.dst.stride(d.name) == 1) * 3 + sum(s == 1 for s in strides) * 2 + sum(
            s == 0 for s in strides
        ), d.extent

    column = max(kept, key=merit)
    lanes = (
        1
        if column.extent == 1
        else min(lanes_of(m.dst.dtype, f.module.vector_bytes), 1 << (column.extent - 1).bit_length())
    )
    pair = _pair(f, m, column, reduced)
    lanes = max(lanes, _NARROWEST) if pair else lanes
    rest = nest.by_stride([d for d in kept if d is not column], m.dst)
    count = -(-column.extent // lanes)
    rows: list[nest.Dim] = []
    while rest and count * rest[-1].extent <= BLOCK:
        count *= rest[-1].extent
        rows.insert(0, rest.pop())
    return _Plan(column, lanes, rows, rest, [d for d in reduced if d.name != pair], pair)


def _pair(f: Function, m: Mma, column: nest.Dim, reduced: Sequence[nest.Dim]) -> str:
    """The dim of pairs that the processor multiplies at once, or ""."""
    types = {m.a.dtype, m.b.dtype}
    if "avx512bf16" not in f.module.features or types != {DType.BF16} or m.kind != "f32":
        return ""
    fits = column.extent > 1 and m.b.stride(column.name) == 2 and m.a.stride(column.name) == 0
    found = [d.name for d in reduced if d.extent == 2 and m.a.stride(d.name) == m.b.stride(d.name) == 1]
    return found[0] if fits and found and not (m.a.register or m.b.register) else ""


def _points(rows: Sequence[nest.Dim]) -> list[dict[str, int]]:
    points: list[dict[str, int]] = [{}]
    for d in rows:
        points = [{**p, d.name: i} for p in points for i in range(d.extent)]
    return points


def _block(f: Function, m: Mma, plan: _Plan) -> None:
    """Load or zero the accumulators, run the reduction loops, store."""
    columns = range(0, plan.column.extent, plan.lanes)
    cells = [{**row, plan.column.name: j} for row in _points(plan.rows) for j in columns]
    live = {j: min(plan.lanes, plan.column.extent - j) for j in columns}
    _Block(f, m, plan, cells, live).emit()


class _Block:
    """Accumulators ``cells`` (points of the destination's box) carried through the reduction loops."""

    def __init__(
        self, f: Function, m: Mma, plan: _Plan, cells: list[dict[str, int]], live: dict[int, int]
    ) -> None:
        self.f, self.m, self.plan, self.cells, self.live = f, m, plan, cells, live
        self.column = plan.column.name
        self.type = values.llvm_type(m.kind, plan.lanes)

    def emit(self) -> None:
        start = [self._initial(cell) for cell in self.cells]
        final = self._reduce(self.m, self.plan.reduced, start)
        for cell, ref in zip(self.cells, final, strict=True):
            self.f.bind(cell)
            value = Vec(self.m.kind, self.plan.lanes, ref)
            access.store(self.f, self.m.dst, self.column, value, self.live[cell[self.column]])

    def _initial(self, cell: dict[str, int]) -> str:
        f, m = self.f, self.m
        zero = values.splat(m.kind, self.plan.lanes, 0)
        first: Index = 1 if m.instr.init is None else f.index(m.instr.init)
        if first == 0:
            return zero.ref
        f.bind(cell)
        old = access.load(f, m.dst, self.column, self.plan.lanes, self.live[cell[self.column]])
        if isinstance(first, int):
            return old.ref
        fresh = Vec("i1", 1, f.op(f"icmp eq i64 {first}, 0"))
        return values.select(f, fresh, zero, old).ref

    def _reduce(self, m: Mma, dims: list[nest.Dim], accumulators: list[str]) -> list[str]:
        """Loops over the reduced dimensions, innermost last."""
        if not dims:
            return self._step(m, accumulators, {}, "")
        first, rest = dims[0], dims[1:]
        unroll = 1 if rest else _unroll(first.extent, len(self.cells))

        def body(i: Index, carried: list[str]) -> list[str]:
            self.f.bind({first.name: i})
            if rest:
                return self._reduce(m, rest, carried)
            return self._steps(m, first.name, unroll, carried)

        full = first.extent // unroll * unroll
        carried = [(self.type, v) for v in accumulators]
        accumulators = self.f.loop(full, body, carried, step=unroll)
        if full < first.extent:
            self.f.bind({first.name: full})
            accumulators = self._steps(m, first.name, first.extent - full, accumulators)
        return accumulators

    def _steps(self, m: Mma, dim: str, count: int, accumulators: list[str]) -> list[str]:
        """Unrolled steps along ``dim``; neighbouring bf16 broadcasts share one load."""
        loaded: _Loaded = {}
        self._fetch(m, dim, count)
        for u in range(count):
            pair = dim if u + 1 < count else ""
            accumulators = self._step(_advance(m, dim, u), accumulators, loaded, pair)
        return accumulators

    def _fetch(self, m: Mma, dim: str, count: int) -> None:
        """Ask for the lines of ``b`` that will be used some steps after these ``count``."""
        width = 2 if self.plan.pair else 1
        step, unit = m.b.form.coefficient(dim), m.b.stride(self.column) == width
        if not m.ahead or not unit or step <= 0:
            return
        distance = -(-m.ahead // len(self.cells)) * step
        size = self.plan.column.extent * m.b.dtype.bytes * width
        touched = sorted({(u * step + j) // m.line for u in range(count) for j in range(0, size, m.line)})
        self.f.bind({self.column: 0})
        for n in touched:
            prefetch.touch(self.f, m.b, distance + n * m.line, "l1")

    def _step(self, m: Mma, accumulators: list[str], loaded: _Loaded, pair: str) -> list[str]:
        """One multiply-add into every accumulator."""
        result = []
        for cell, accumulator in zip(self.cells, accumulators, strict=True):
            b, a = self._operand(m.b, cell, loaded, pair), self._operand(m.a, cell, loaded, pair)
            sum_ = Vec(m.kind, self.plan.lanes, accumulator)
            add = _dot if self.plan.pair else _multiply_add
            result.append(add(self.f, a, b, sum_).ref)
        return result

    def _operand(self, v: View, cell: dict[str, int], loaded: _Loaded, pair: str) -> Vec:
        # An address alone does not tell vectors apart: a broadcast, a row and the last part of a row may share it.
        at, stride = v.form.substitute(cell), v.stride(self.column)
        width = self.live[cell[self.column]] if stride else self.plan.lanes
        key = (v.base, at, stride, width)
        if key not in loaded:
            self.f.bind(cell)
            if self.plan.pair:
                loaded[key] = self._word(v, stride, width)
                return loaded[key]
            single = stride == 0 and self.plan.lanes > 1 and not v.register
            if pair and single and v.dtype is DType.BF16 and v.stride(pair) == 1:
                following = (v.base, at + v.dtype.bytes, stride, width)
                loaded[key], loaded[following] = self._pair(v)
            else:
                value = access.load(self.f, v, self.column, self.plan.lanes, width)
                loaded[key] = values.to_kind(self.f, value, self.m.kind)
        return loaded[key]

    def _word(self, v: View, stride: int, live: int) -> Vec:
        """Pairs of terms as words: a row's in every lane, or those of ``live`` columns."""
        f, lanes = self.f, self.plan.lanes
        pointer = f.pointer(v.base, v.form)
        if stride:
            return values.load_raw(f, DType.I32, pointer, lanes, live, v.dtype.bytes)
        return values.broadcast(f, values.load_raw(f, DType.I32, pointer, 1, 1, v.dtype.bytes), lanes)

    def _pair(self, v: View) -> tuple[Vec, Vec]:
        """Two neighbouring bf16 values broadcast with one load: widening is a shift or a mask of the lanes."""
        f, lanes = self.f, self.plan.lanes
        word = Vec("i32", 1, f.op(f"load i32, ptr {f.pointer(v.base, v.form)}, align 2"))
        both = values.broadcast(f, word, lanes)
        low = values.binary(f, "shl", both, values.splat("i32", lanes, 16))
        high = values.binary(f, "and", both, values.splat("i32", lanes, -65536))
        first, second = (values.convert_bits(f, "bitcast", x, "f32") for x in (low, high))
        return values.to_kind(f, first, self.m.kind), values.to_kind(f, second, self.m.kind)


def _advance(m: Mma, dim: str, by: int) -> Mma:
    """The instruction ``by`` steps further along ``dim``."""
    if not by:
        return m
    ahead = {dim: Affine.var(dim) + by}
    return replace(
        m, a=replace(m.a, form=m.a.form.substitute(ahead)), b=replace(m.b, form=m.b.form.substitute(ahead))
    )


def _unroll(extent: int, cells: int) -> int:
    """Steps in a loop body: a divisor of the extent if one is near the limit, else the limit and a remainder."""
    if extent * cells <= STEPS:
        return extent
    most = max(1, STEPS // cells)
    divisor = max(u for u in range(1, most + 1) if extent % u == 0)
    return divisor if 2 * divisor > most else most


def _dot(f: Function, a: Vec, b: Vec, c: Vec) -> Vec:
    """Add both products of every lane's pair to ``c``; subnormal operands and results count as zero."""
    type_ = f"<{2 * c.lanes} x bfloat>"
    pairs = [f.op(f"bitcast {v.type} {v.ref} to {type_}") for v in (a, b)]
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * c.lanes}"
    return Vec(c.kind, c.lanes, f.call(name, c.type, [c.ref, *pairs], [c.type, type_, type_]))


def _multiply_add(f: Function, a: Vec, b: Vec, c: Vec) -> Vec:
    if c.kind == "i32":
        return values.binary(f, "add", c, values.binary(f, "mul", a, b))
    return values.multiply_add(f, a, b, c)
