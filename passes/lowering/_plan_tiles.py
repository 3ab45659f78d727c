"""Plans for machines whose cube is fed from memory tile by tile: every sensible plan is priced, the cheapest wins.

The price is in cycles of one run on one core: products and tile loads by the cache level that serves them, what
crosses the last cache level, and copies of operand A. Rates are the machine file's ``limits``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

from opc.machine.model import Machine
from opc.tensor.ir import Dim, Read, Tensor
from passes.lowering._knobs import Knobs
from passes.lowering._plan import Shape
from passes.lowering._row_layout import RowLayout, contiguous, copied, in_place
from passes.lowering._tile_blocks import Rows, choices


@dataclass(frozen=True, slots=True)
class TilePlan:
    """``slab``: the box of rows between which operand A may be copied anew; ``stage``: no copy ("direct"), one
    per slab, or one of everything before all else ("whole"), of ``layout``. ``columns``: of an accumulator
    block. ``parallel``: the dim spread over cores, ``per`` blocks of columns an iteration if it is one of columns.
    ``inner``: whether rows or columns go round inside. ``stream``: the operand that should not stay near.
    """

    rows: Rows
    slab: dict[str, int]
    stage: str
    layout: RowLayout
    chunk: dict[str, int]
    columns: int
    parallel: str
    per: int
    inner: str
    stream: str

    @property
    def knobs(self) -> Knobs:
        """The choices that single this plan out."""
        order = "columns" if self.per else "rows"
        return Knobs(
            rows=prod(self.rows.block.values()), slab=prod(self.slab.values()), order=order,
            columns=self.columns, stage=self.stage, inner=self.inner, stream=self.stream,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operands:
    """What a plan needs to know of operand A beside the shape. ``copy``: it cannot be read where it lies."""

    read: Read
    tensor: Tensor
    summed: frozenset[str]
    copy: bool
    ragged: bool


@dataclass(frozen=True, slots=True)
class Priced:
    """A plan and its estimate."""

    cycles: float
    plan: TilePlan


def plan_tiles(s: Shape, a: Operands, machine: Machine, knobs: Knobs) -> list[Priced]:
    """Plans that have the given knobs (all, if none has), cheapest first."""
    model = _Model(s, a, machine)
    found = sorted(model.plans(), key=lambda p: p.cycles)
    if knobs == Knobs():
        return found
    return [p for p in found if _has(p.plan.knobs, knobs)] or found


def _has(given: Knobs, wanted: Knobs) -> bool:
    names = ("rows", "slab", "order", "columns", "stage", "inner", "stream")
    return all(getattr(wanted, n) in (None, getattr(given, n)) for n in names)


# Shares of a run on 1, 2, 4 and 8 cores: the split should be even for few, and not impossible for many.
_CORES = ((1, 0.4), (2, 0.4), (4, 0.1), (8, 0.1))
# Cycles that a grid barrier costs, and a loop over blocks: what it cannot overlap.
_BARRIER, _LOOP = 3000, 300
# Blocks that are looked at closely, and what each slab adds to a first guess.
_BLOCKS, _SLAB_SHARE = 8, 0.002


class _Model:
    def __init__(self, s: Shape, a: Operands, machine: Machine) -> None:
        self.s, self.a, self.machine = s, a, machine
        limits = machine.limits
        rows, columns, depth = machine.cube_shape[s.operand]
        self.tile_rows, self.tile_columns = rows, columns
        self.room = depth
        self.tiles = machine.role("accumulator").capacity // machine.role("accumulator").align
        kib = {level: limits.get(f"{level}_kib_cycles", 16) / 1024 for level in ("l1", "l2", "l3")}
        self.near, self.middle, self.far = kib["l1"], kib["l2"], kib["l3"]
        self.product = limits.get("product_cycles", rows)
        # A part is left to what else passes through: the epilogue's lines, the operand that streams.
        self.l1 = limits.get("l1_bytes", 32768) * 2 // 3
        self.l2 = machine.role("stage").capacity * 3 // 2
        route = machine.route("copy_in", machine.roles["memory"], machine.roles["stage"])
        self.copy_rate = 1 / route.bandwidth if route else 0.0
        self.size = s.operand.bytes
        self.k = prod(d.extent for d in s.k)
        self.extents = {d.name: d.extent for d in (*s.m, *s.k)}
        self.around = prod(d.extent for d in s.batch)
        self.n = prod(d.extent for d in s.n)
        self.weights = self.k * self.n * self.size
        whole = {d.name: d.extent for d in s.m}
        self.rows, self.results = self.touched(whole), prod(whole.values()) * self.n * self.size

    def plans(self) -> Iterator[Priced]:
        """Plans of the most promising blocks, priced."""
        rough: list[tuple[float, int, dict[str, int], Rows, int]] = []
        for slab in _slabs(self.s.m):
            dims = tuple(Dim(d.name, slab[d.name]) for d in self.s.m)
            for columns in self._columns():
                for rows in choices(dims, self.tile_rows, self._most(columns)):
                    rough.append((self._rough(slab, rows, columns), len(rough), slab, rows, columns))
        # Some of each kind: a copy in another order may cost more than full tiles save.
        for folded in (False, True):
            kind = sorted(r for r in rough if bool(r[3].inner) is folded)
            for _, _, slab, rows, columns in kind[:_BLOCKS]:
                yield from self._staged(slab, rows, columns)

    def _rough(self, slab: dict[str, int], rows: Rows, columns: int) -> float:
        """Cycles of the products, or of tile loads that the second cache level serves half of."""
        wide = ceil(columns / self.tile_columns)
        loads = (prod(rows.block.values()) + columns) * self.size * (self.near + self.middle) / 2
        cube = rows.count * wide * self.product / self.room
        slabs = prod(ceil(d.extent / slab[d.name]) for d in self.s.m)
        again = 1.0 + _SLAB_SHARE * slabs
        return rows.blocks(slab) * slabs / columns * max(loads, cube) * again

    def _columns(self) -> tuple[int, ...]:
        width = self.s.n[-1].extent if self.s.n else 1
        return (width,) if width <= self.tile_columns else (width, self.tile_columns)

    def _most(self, columns: int) -> int:
        """Tiles of rows in a block: accumulators and both operands share the registers."""
        wide = ceil(columns / self.tile_columns)
        return max(1, (self.tiles - wide) // (wide + 1))

    def _staged(self, slab: dict[str, int], rows: Rows, columns: int) -> Iterator[Priced]:
        for stage in ("direct", "slab", "whole"):
            box = {**self.extents, **slab} if stage == "slab" else self.extents
            layout = self._layout(stage, box, rows)
            chunk = contiguous(layout, self.s.k, self.room) if layout else {}
            if layout is None or not self._loadable(layout, rows, chunk, stage):
                continue
            if stage == "slab" and layout.elements * self.size > self.machine.role("stage").capacity:
                continue
            yield from self._ordered(slab, rows, columns, stage, layout, chunk)

    def _layout(self, stage: str, box: dict[str, int], rows: Rows) -> RowLayout | None:
        """Rows in place or in a copy; None where the other way is wanted."""
        read, tensor = self.a.read, self.a.tensor
        if stage == "direct":
            return None if self.a.copy else in_place(read, tensor)
        if self.around > 1 and stage == "whole":
            return None
        plain = copied(read, tensor, box, self.a.summed, rows.inner)
        if _even(plain, rows):
            return plain
        return copied(read, tensor, box, self.a.summed, rows.inner, split=True)

    def _loadable(self, layout: RowLayout, rows: Rows, chunk: dict[str, int], stage: str) -> bool:
        """Whether tile registers can be loaded from the layout; copies are not made for nothing."""
        if not _even(layout, rows):
            return False
        if stage == "direct":
            return prod(chunk.values()) * 2 > min(self.room, self.k)
        direct = in_place(self.a.read, self.a.tensor)
        needed = self.a.copy or not _even(direct, rows)
        return needed or prod(contiguous(direct, self.s.k, self.room).values()) * 2 <= min(self.room, self.k)

    def _ordered(
        self, slab: dict[str, int], rows: Rows, columns: int, stage: str, layout: RowLayout,
        chunk: dict[str, int],
    ) -> Iterator[Priced]:  # fmt: skip
        price = _Price(self, slab, rows, columns, stage, layout, chunk)
        for parallel, per, tasks in self._parallel(slab):
            for inner in ("rows", "columns"):
                for stream in ("none", "a", "b"):
                    plan = TilePlan(rows, slab, stage, layout, chunk, columns, parallel, per, inner, stream)
                    yield Priced(price.of(per, tasks, inner, stream), plan)

    def _parallel(self, slab: dict[str, int]) -> Iterator[tuple[str, int, int]]:
        """(dim, blocks of columns an iteration, iterations)."""
        counts = {d.name: d.extent for d in self.s.batch}
        counts.update({d.name: ceil(d.extent / slab[d.name]) for d in self.s.m})
        name = max(counts, key=lambda n: counts[n]) if counts else ""
        yield name, 0, counts.get(name, 1)
        if len(self.s.n) < 2 or self.s.batch:
            return
        blocks = self.s.n[-2].extent
        for per in sorted({max(1, blocks // t) for t in (2, 4, 8, 16)}):
            if blocks > 1 and blocks % per == 0:
                yield self.s.n[-2].name, per, blocks // per

    def touched(self, box: dict[str, int]) -> float:
        """Bytes of operand A under a box of rows."""
        size = float(self.size * self.s.slab_channel)
        for d in self.s.m:
            stride, extra = self.s.reach[d.name]
            size *= min((box[d.name] - 1) * stride + 1 + extra, box[d.name] * (1 + extra))
        return size


class _Price:
    """Estimates of plans that share a block, a slab and a layout."""

    def __init__(
        self, model: _Model, slab: dict[str, int], rows: Rows, columns: int, stage: str, layout: RowLayout,
        chunk: dict[str, int],
    ) -> None:  # fmt: skip
        self.model, self.stage = model, stage
        s, box = model.s, {**dict.fromkeys(slab, 1), **rows.block}
        width = s.n[-1].extent if s.n else 1
        self.slabs = prod(ceil(d.extent / slab[d.name]) for d in s.m)
        self.wide = model.n // width * ceil(width / columns)
        self.blocks = rows.blocks(slab)
        steps = ceil(model.k / prod(chunk.values()))
        self.cube = rows.count * ceil(columns / model.tile_columns) * steps * model.product
        self.a, self.b = (n * model.k * model.size for n in (prod(box.values()), columns))
        self.under_block, self.under_slab = model.touched(box), model.touched(slab)
        self.copied = layout.elements * model.size
        self.copies = self.copied * model.copy_rate

    def of(self, per: int, tasks: int, inner: str, stream: str) -> float:
        """Cycles of a run on one core, and a bit more where the work does not spread evenly over a few."""
        m = self.model
        copy = 0.0
        if self.stage == "whole":
            copy = _BARRIER + self.copies
        elif self.stage == "slab":
            copy = self.copies * self.slabs * (tasks if per else 1) * m.around
        passes = self.blocks * self.slabs * self.wide * m.around
        loops = self.slabs * m.around * (self.wide if inner == "rows" else self.blocks)
        even = sum(share * ceil(tasks / t) * t / tasks for t, share in _CORES)
        busy = max(passes * max(self.cube, self._loads(inner, stream)), self._far(per, tasks, inner))
        return (busy + _LOOP * loops) * even + copy

    def _loads(self, inner: str, stream: str) -> float:
        """Cycles that loading the tiles of one block takes, by where they are found."""
        m = self.model
        if stream == "none":
            keep_a = keep_b = self.under_block + self.b <= m.l1
        else:
            keep_a, keep_b = (stream == "b" and self.under_block <= m.l1), (stream == "a" and self.b <= m.l1)
        if inner == "rows":
            a = self.under_block / (self.wide if self.under_slab <= m.l1 // 2 else 1)
            b = self.b / self.blocks
        else:
            a = self.under_block / self.wide
            b = self.b if m.weights > m.l1 // 2 else self.b / (self.blocks * self.slabs)
        middle = (min(self.a, a) if keep_a else self.a) + (b if keep_b else self.b)
        return m.middle * middle + m.near * (self.a + self.b - middle)

    def _far(self, per: int, tasks: int, inner: str) -> float:
        """Cycles of the bytes that come from beyond the second cache level, or go there."""
        m = self.model
        rows, results = m.rows * m.around, m.results * m.around
        weights = m.weights * m.around
        if rows + weights + results <= m.l2:
            return 0.0
        slab = self.copied if self.stage == "slab" else self.under_slab
        stays = slab + m.weights / (tasks if per else 1) <= m.l2
        weights *= 1 if stays else self.slabs
        if per and rows > m.l2 / 2:
            rows *= tasks
        if inner == "rows" and not per and slab > m.l2:
            rows *= self.wide
        return m.far * (rows + weights + results)


def _even(layout: RowLayout, rows: Rows) -> bool:
    """Whether the rows of a tile lie at one distance."""
    form = layout.linear()
    step: int | None = None
    for name, size in reversed(rows.tile.items()):
        if size == 1:
            continue
        if step is not None and form.coefficient(name) != step:
            return False
        step = form.coefficient(name) * size
    return True


def _slabs(m: tuple[Dim, ...]) -> Iterator[dict[str, int]]:
    """Boxes of rows: inner dims whole, one dim in equal parts, outer dims one at a time or whole."""
    seen: list[dict[str, int]] = []
    for at, d in enumerate(m):
        for part in _parts(d.extent):
            for outer_whole in (False, True):
                slab = {o.name: o.extent if outer_whole or i > at else 1 for i, o in enumerate(m)}
                slab[d.name] = part
                if slab not in seen:
                    seen.append(slab)
    yield from seen or [{}]


def _parts(extent: int) -> list[int]:
    """Sizes of up to about twenty equal parts, each at least a half larger than the next."""
    counts = [c for c in range(1, min(extent, 64) + 1) if extent % c == 0]
    if len(counts) < 3 and extent > 64:
        counts = [1, 2, 4, 8, 16, 32]
    kept: list[int] = []
    for c in counts:
        if not kept or c >= kept[-1] * 1.5:
            kept.append(c)
    return [ceil(extent / c) for c in kept]
