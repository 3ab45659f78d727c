"""Copies with a fill value: the iteration box is split at run time into an interior and a border.

Each bounds check belongs to the innermost dimension its index reads, so inside the loops of the other
dimensions it is a range of that one dimension: rows stay contiguous and the interior is copied without
tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu import access, checks, guarded, nest, pairs, spread, transpose, values
from opc.cpu.checks import Check, Gather
from opc.cpu.elementwise import copy_bytes
from opc.cpu.function import Function, Index
from opc.cpu.layout import View
from opc.cpu.values import Vec

WIDE = 256  # bytes; longer rows go through memcpy


@dataclass(frozen=True, slots=True)
class _Dim:
    """A dimension with the checks it decides; ``scale`` elements of it make one step of the checked index."""

    name: str
    extent: int
    checks: tuple[Check, ...] = ()
    scale: int = 1


def emit(f: Function, g: Gather) -> None:
    """Emit the whole copy."""
    dims = nest.significant(f, g.instr.dims)
    checked = frozenset(n for c in g.checks for n in c.form.names)
    dims, forms = nest.merge(dims, [g.dst.form, g.src.form], checked)
    g = replace(g, dst=replace(g.dst, form=forms[0]), src=replace(g.src, form=forms[1]))
    if g.dst.register:
        guarded.emit(f, g, nest.by_stride(dims, g.dst))
        return
    found, constant = _attach(nest.by_stride(dims, g.dst), g.checks)
    found, g = _absorb(found, g)
    fill = values.narrow(f, g.dst.dtype, checks.fill_of(f, g, 1))
    run = _Run(f, g, fill)
    if not constant:
        run.level(found)
        return
    inside = checks.all_of(f, [checks.holds(f, c) for c in constant])
    f.branch(inside, lambda: run.level(found), lambda: run.fill(found))


def _attach(dims: list[nest.Dim], found: Sequence[Check]) -> tuple[list[_Dim], list[Check]]:
    """Checks by the innermost dimension they read, and those that read none."""
    by_dim: dict[str, list[Check]] = {d.name: [] for d in dims}
    constant: list[Check] = []
    for c in found:
        inner = [d.name for d in dims if c.form.coefficient(d.name)]
        (by_dim[inner[-1]] if inner else constant).append(c)
    return [_Dim(d.name, d.extent, tuple(by_dim[d.name])) for d in dims], constant


def _absorb(dims: list[_Dim], g: Gather) -> tuple[list[_Dim], Gather]:
    """Merge an unchecked innermost dimension into a checked one that it continues: rows of pixels x
    channels.
    """
    while len(dims) >= 2:
        outer, inner = dims[-2], dims[-1]
        read_elsewhere = any(c.form.coefficient(inner.name) for d in dims for c in d.checks)
        inner_read = any(c.form.coefficient(outer.name) for d in dims[:-2] for c in d.checks)
        steps = [(v.form.coefficient(outer.name), v.form.coefficient(inner.name)) for v in (g.dst, g.src)]
        if inner.checks or read_elsewhere or inner_read or any(o != inner.extent * i for o, i in steps):
            break
        dims = [
            *dims[:-2],
            _Dim(outer.name, outer.extent * inner.extent, outer.checks, outer.scale * inner.extent),
        ]
        moved = [
            v.form + Affine.var(outer.name, i - o) for v, (o, i) in zip((g.dst, g.src), steps, strict=True)
        ]
        moved = [x.substitute({inner.name: 0}) for x in moved]
        g = replace(g, dst=replace(g.dst, form=moved[0]), src=replace(g.src, form=moved[1]))
    return dims, g


class _Run:
    def __init__(self, f: Function, g: Gather, fill: Vec) -> None:
        self.f, self.g, self.value = f, g, fill
        self.move = g.src.dtype is g.dst.dtype

    def level(self, dims: list[_Dim]) -> None:
        """Copy the box of ``dims``, the outer ones being bound."""
        f = self.f
        if not dims:
            self.f.bind({"one.": 0})
            self._copy(_Dim("one.", 1), 0, 1)
            return
        first, rest = dims[0], dims[1:]
        low, high = _range(f, first)
        if not rest:
            self._row(first, low, high)
            return
        if len(rest) == 1 and (
            self._turn(first, rest[0], low, high)
            or self._spread(first, rest[0], low, high)
            or self._pair(first, rest[0])
        ):
            return
        self._each(first, rest, low, high)

    def _each(self, first: _Dim, rest: list[_Dim], low: Index, high: Index) -> None:
        """Step by step of the first dimension."""
        f = self.f

        def body(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            if not first.checks:
                self.level(rest)
                return []
            above = f.op(f"icmp sge i64 {i}, {low}")
            below = f.op(f"icmp slt i64 {i}, {high}")
            f.branch(f.op(f"and i1 {above}, {below}"), lambda: self.level(rest), lambda: self.fill(rest))
            return []

        f.loop(first.extent, body)

    def _turn(self, first: _Dim, inner: _Dim, low: Index, high: Index) -> bool:
        """Blocks of a copy that turns, where the source is contiguous along the outer dimension."""
        g, f = self.g, self.f
        found = transpose.find(f, g.dst, g.src, [(first.name, first.extent), (inner.name, inner.extent)])
        if found is None or found.along != first.name or inner.checks:
            return False
        whole = inner.extent // found.size * found.size

        def wide(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            f.loop(whole, one, step=found.size)
            for by in range(found.size if whole < inner.extent else 0):
                moved = {first.name: Affine.var(first.name) + by}
                dst, src = (replace(v, form=v.form.substitute(moved)) for v in (g.dst, g.src))
                part = _Run(f, replace(g, dst=dst, src=src), self.value)
                part._copy(inner, whole, inner.extent)
            return []

        def one(j: Index, _: list[str]) -> list[str]:
            f.bind({inner.name: j})
            transpose.block(f, found)
            return []

        def narrow(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            self._copy(inner, 0, inner.extent)
            return []

        def border(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            self.fill([inner])
            return []

        middle = self._middle(low, high, found.size)
        f.loop(middle, wide, start=low, step=found.size)
        f.loop(high, narrow, start=middle)
        if first.checks:
            f.loop(low, border)
            f.loop(first.extent, border, start=high)
        return True

    def _spread(self, first: _Dim, inner: _Dim, low: Index, high: Index) -> bool:
        """Several short rows at once, where they are dense in the source and padded in the destination."""
        g, f = self.g, self.f
        start, narrow = _range(f, inner) if not _varies(inner) else (1, 0)
        if start != 0 or not isinstance(narrow, int):
            return False
        found = spread.find(f, g.dst, g.src, first.name, inner.name, narrow, inner.extent)
        if found is None:
            return False

        def wide(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            spread.block(f, found, self.value)
            return []

        def one(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            self._row(inner, 0, narrow)
            return []

        def border(i: Index, _: list[str]) -> list[str]:
            f.bind({first.name: i})
            self.fill([inner])
            return []

        middle = self._middle(low, high, found.size)
        f.loop(middle, wide, start=low, step=found.size)
        f.loop(high, one, start=middle)
        if first.checks:
            f.loop(low, border)
            f.loop(first.extent, border, start=high)
        return True

    def _pair(self, first: _Dim, inner: _Dim) -> bool:
        """Two rows side by side, where both are there; else element by element."""
        g, f = self.g, self.f
        if first.checks or any(c.form.coefficient(first.name) for c in inner.checks) or not self.move:
            return False
        found = pairs.find(f, g.dst, g.src, [(first.name, first.extent), (inner.name, inner.extent)])
        if found is None or found.across != inner.name:
            return False

        def whole() -> None:
            pairs.row(f, found, nest.Dim(first.name, first.extent))

        low, high = _range(f, inner)
        if isinstance(low, int) and isinstance(high, int) and (low, high) == (0, 2):
            whole()
            return True
        both = f.op(f"icmp eq i64 {f.op(f'sub i64 {high}, {low}')}, 2")
        f.branch(both, whole, lambda: self._each(first, [inner], 0, first.extent))
        return True

    def _middle(self, low: Index, high: Index, step: int) -> Index:
        """Where whole steps from ``low`` end."""
        if isinstance(low, int) and isinstance(high, int):
            return low + (high - low) // step * step
        whole = self.f.op(f"and i64 {self.f.op(f'sub i64 {high}, {low}')}, {-step}")
        return self.f.op(f"add i64 {low}, {whole}")

    def fill(self, dims: list[_Dim]) -> None:
        """Fill the box of ``dims``."""
        f = self.f
        plain, forms = nest.merge([nest.Dim(d.name, d.extent) for d in dims], [self.g.dst.form])
        target = replace(self.g.dst, form=forms[0])
        if not plain:
            values.store_raw(f, target.dtype, f.pointer(target.base, target.form), self.value, 1)
            return
        *outer, inner = nest.by_stride(plain, target)

        def row() -> None:
            self._fill_row(target, inner.name, 0, inner.extent)

        nest.walk(f, outer, row, unroll=False)

    def _row(self, dim: _Dim, low: Index, high: Index) -> None:
        if dim.checks:
            self._fill_row(self.g.dst, dim.name, 0, low)
        self._copy(dim, low, high)
        if dim.checks:
            self._fill_row(self.g.dst, dim.name, high, dim.extent)

    def _fill_row(self, target: View, dim: str, low: Index, high: Index) -> None:
        wide = values.broadcast(self.f, self.value, self.f.module.vector_bytes // target.dtype.bytes)

        def body(lanes: int) -> None:
            access.store(self.f, target, dim, wide if lanes > 1 else self.value, lanes, raw=True)

        self._sweep(dim, low, high, wide.lanes if target.stride(dim) == 1 else 1, body)

    def _copy(self, dim: _Dim, low: Index, high: Index) -> None:
        g, f = self.g, self.f
        unit = g.dst.stride(dim.name) == 1 and g.src.stride(dim.name) == 1
        if unit and self.move and dim.extent * g.dst.dtype.bytes >= WIDE:
            self._copy_bytes(dim, low, high)
            return
        width = g.dst.dtype.bytes if self.move else max(g.dst.dtype.compute.bytes, g.src.dtype.compute.bytes)

        def body(lanes: int) -> None:
            value = access.load(f, g.src, dim.name, lanes, lanes, raw=self.move)
            access.store(f, g.dst, dim.name, value, lanes, raw=self.move)

        self._sweep(dim.name, low, high, f.module.vector_bytes // width if unit else 1, body)

    def _copy_bytes(self, dim: _Dim, low: Index, high: Index) -> None:
        f, g = self.f, self.g
        f.bind({dim.name: 0})
        to, source = f.pointer(g.dst.base, g.dst.form), f.pointer(g.src.base, g.src.form)
        size = g.dst.dtype.bytes
        if isinstance(low, int) and isinstance(high, int):
            skip, length = str(low * size), str((high - low) * size)
        else:
            skip = f.op(f"mul i64 {low}, {size}")
            length = f.op(f"mul i64 {f.op(f'sub i64 {high}, {low}')}, {size}")
        to = f.op(f"getelementptr i8, ptr {to}, i64 {skip}")
        source = f.op(f"getelementptr i8, ptr {source}, i64 {skip}")
        copy_bytes(f, to, source, length)

    def _sweep(self, dim: str, low: Index, high: Index, lanes: int, body: Callable[[int], None]) -> None:
        """``body(lanes)`` over [low, high) in whole vectors, then one by one."""
        f = self.f

        def step(lanes: int) -> Callable[[Index, list[str]], list[str]]:
            def at(i: Index, _: list[str]) -> list[str]:
                f.bind({dim: i})
                body(lanes)
                return []

            return at

        middle = self._middle(low, high, lanes) if lanes > 1 else low
        if lanes > 1:
            f.loop(middle, step(lanes), start=low, step=lanes)
        f.loop(high, step(1), start=middle)


def _varies(dim: _Dim) -> bool:
    """Whether more than the dimension itself decides its checks."""
    return any(c.form.names - {dim.name} for c in dim.checks)


def _range(f: Function, dim: _Dim) -> tuple[Index, Index]:
    """Where all of a dimension's checks hold: [low, high) within [0, extent)."""
    low: Index = 0
    high: Index = dim.extent // dim.scale
    for c in dim.checks:
        step = c.form.coefficient(dim.name)
        rest = c.form - Affine.var(dim.name, step)
        if step < 0:
            # Mirrored: size - 1 - form rises where form falls.
            rest, step = rest * -1 + (c.size - 1), -step
        first = _ceil_div(f, f.index(rest * -1), step)
        last = _ceil_div(f, f.index(rest * -1 + c.size), step)
        low, high = _largest(f, low, first), _smallest(f, high, last)
    if dim.checks:
        high = _largest(f, high, 0)
        low = _smallest(f, low, high)
    if dim.scale == 1:
        return low, high
    return _scaled(f, low, dim.scale), _scaled(f, high, dim.scale)


def _scaled(f: Function, value: Index, by: int) -> Index:
    return value * by if isinstance(value, int) else f.op(f"mul i64 {value}, {by}")


def _ceil_div(f: Function, value: Index, by: int) -> Index:
    """ceil(max(value, 0) / by)."""
    if isinstance(value, int):
        return -(-max(value, 0) // by)
    if by == 1:
        return value
    positive = f.call("llvm.smax.i64", "i64", [str(value), "0"], ["i64", "i64"])
    return f.op(f"udiv i64 {f.op(f'add i64 {positive}, {by - 1}')}, {by}")


def _largest(f: Function, a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return f.call("llvm.smax.i64", "i64", [str(a), str(b)], ["i64", "i64"])


def _smallest(f: Function, a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return f.call("llvm.smin.i64", "i64", [str(a), str(b)], ["i64", "i64"])
