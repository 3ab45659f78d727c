"""cube.mma on vector registers: an outer-product block whose accumulators live in SSA values.

Columns (the destination's contiguous dimension) are lanes, rows are broadcasts; every reduced dimension
is a rolled loop that carries the accumulators, the innermost unrolled a few times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu import access, nest, values
from opc.cpu.function import Function, Index
from opc.cpu.layout import View, lanes_of
from opc.cpu.values import Vec
from opc.program.ir import Instr

BLOCK = 32  # accumulators carried at once; more are done block after block
STEPS = 48  # multiply-adds in an unrolled loop body


@dataclass(frozen=True, slots=True)
class Mma:
    """A cube.mma with its operands linearised."""

    instr: Instr
    dst: View
    a: View
    b: View

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


def emit(f: Function, m: Mma) -> None:
    """Emit the whole instruction."""
    dims = nest.significant(f, m.instr.dims)
    dims, forms = nest.merge(dims, [m.dst.form, m.a.form, m.b.form])
    m = replace(
        m, **{n: replace(getattr(m, n), form=x) for n, x in zip(("dst", "a", "b"), forms, strict=True)}
    )
    plan = _plan(f, m, dims)
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
    rest = nest.by_stride([d for d in kept if d is not column], m.dst)
    count = -(-column.extent // lanes)
    rows: list[nest.Dim] = []
    while rest and count * rest[-1].extent <= BLOCK:
        count *= rest[-1].extent
        rows.insert(0, rest.pop())
    return _Plan(column, lanes, rows, rest, reduced)


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
    start = [_initial(f, m, plan, cell, live[cell[plan.column.name]]) for cell in cells]
    type_ = start[0].type
    final = _reduce(f, m, plan, cells, live, plan.reduced, [v.ref for v in start], type_)
    for cell, ref in zip(cells, final, strict=True):
        f.bind(cell)
        value = Vec(m.kind, plan.lanes, ref)
        access.store(f, m.dst, plan.column.name, value, live[cell[plan.column.name]])


def _initial(f: Function, m: Mma, plan: _Plan, cell: dict[str, int], live: int) -> Vec:
    zero = values.splat(m.kind, plan.lanes, 0)
    init = m.instr.init
    first: Index = 1 if init is None else f.index(init)
    if first == 0:
        return zero
    f.bind(cell)
    old = access.load(f, m.dst, plan.column.name, plan.lanes, live)
    if isinstance(first, int):
        return old
    fresh = Vec("i1", 1, f.op(f"icmp eq i64 {first}, 0"))
    return values.select(f, fresh, zero, old)


def _reduce(
    f: Function,
    m: Mma,
    plan: _Plan,
    cells: list[dict[str, int]],
    live: dict[int, int],
    dims: list[nest.Dim],
    accumulators: list[str],
    type_: str,
) -> list[str]:
    """Loops over the reduced dimensions, innermost last."""
    if not dims:
        return _step(f, m, plan, cells, live, accumulators)
    first, rest = dims[0], dims[1:]
    unroll = _unroll(first.extent, len(cells)) if not rest else 1

    def body(i: Index, carried: list[str]) -> list[str]:
        for u in range(unroll):
            if isinstance(i, int):
                f.bind({first.name: i + u})
                carried = _reduce(f, m, plan, cells, live, rest, carried, type_)
            else:
                f.bind({first.name: i})
                carried = _reduce(f, _advance(m, first.name, u), plan, cells, live, rest, carried, type_)
        return carried

    full = first.extent // unroll * unroll
    accumulators = f.loop(full, body, [(type_, v) for v in accumulators], step=unroll)
    for k in range(full, first.extent):
        f.bind({first.name: k})
        accumulators = _reduce(f, m, plan, cells, live, rest, accumulators, type_)
    return accumulators


def _advance(m: Mma, dim: str, by: int) -> Mma:
    """The instruction ``by`` steps further along ``dim``."""
    if not by:
        return m
    ahead = {dim: Affine.var(dim) + by}
    return replace(
        m, a=replace(m.a, form=m.a.form.substitute(ahead)), b=replace(m.b, form=m.b.form.substitute(ahead))
    )


def _unroll(extent: int, cells: int) -> int:
    if extent * cells <= STEPS:
        return extent
    most = max(1, STEPS // cells)
    return max(u for u in range(1, most + 1) if extent % u == 0 or u == 1)


def _step(
    f: Function,
    m: Mma,
    plan: _Plan,
    cells: list[dict[str, int]],
    live: dict[int, int],
    accumulators: list[str],
) -> list[str]:
    """One multiply-add into every accumulator."""
    loaded: dict[tuple[str, Affine], Vec] = {}

    def operand(v: View, cell: dict[str, int]) -> Vec:
        key = (v.base, v.form.substitute(cell))
        if key not in loaded:
            f.bind(cell)
            width = live[cell[plan.column.name]]
            loaded[key] = values.to_kind(f, access.load(f, v, plan.column.name, plan.lanes, width), m.kind)
        return loaded[key]

    result = []
    for cell, accumulator in zip(cells, accumulators, strict=True):
        b, a = operand(m.b, cell), operand(m.a, cell)
        result.append(_multiply_add(f, a, b, Vec(m.kind, plan.lanes, accumulator)).ref)
    return result


def _multiply_add(f: Function, a: Vec, b: Vec, c: Vec) -> Vec:
    if c.kind == "i32":
        return values.binary(f, "add", c, values.binary(f, "mul", a, b))
    return values.multiply_add(f, a, b, c)
