"""Plans for machines whose cube is fed from memory tile by tile: every sensible plan is priced, the cheapest wins.

The price is in cycles of one run on one core: products and tile loads by the cache level that serves them, what
crosses the last cache level, and copies of operand A. Rates are the machine file's ``limits``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from opc.affine import Affine
from opc.machine.model import Machine
from opc.tensor.ir import Dim, Read, Tensor
from passes.lowering._knobs import Knobs
from passes.lowering._plan import Shape
from passes.lowering._row_layout import RowLayout, contiguous, copied, in_place
from passes.lowering._tile_blocks import Rows, choices, slabs

Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """``slab``: the box of rows between which operand A may be copied anew; ``stage``: no copy ("direct"), one
    per slab, or one of everything before all else ("whole"), of ``layout``, window dims apart from the others
    on the axes ``split``. ``columns``: of an accumulator block. ``parallel``: the dim spread over cores, ``per``
    blocks of columns an iteration if it is one of columns.
    ``inner``: whether rows or columns go round inside. ``stream``: the operand that should not stay near.
    ``prefetch``: whether every block brings its part of the next columns nearer ("on").
    """

    rows: Rows
    slab: dict[str, int]
    stage: str
    layout: RowLayout
    split: Axes
    chunk: dict[str, int]
    columns: int
    parallel: str
    per: int
    inner: str
    stream: str
    prefetch: str

    @property
    def knobs(self) -> Knobs:
        """The choices that single this plan out."""
        order = "columns" if self.per else "rows"
        return Knobs(
            rows=prod(self.rows.block.values()), slab=prod(self.slab.values()), order=order,
            columns=self.columns, stage=self.stage, inner=self.inner, stream=self.stream,
            prefetch=self.prefetch,
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


def pair_dim(s: Shape) -> str:
    """The K dim of which the cube wants consecutive elements side by side."""
    return s.k[-1].name if s.k else ""


def plan_tiles(s: Shape, a: Operands, machine: Machine, knobs: Knobs) -> list[Priced]:
    """Plans that have the given knobs (all, if none has), cheapest first."""
    model = _Model(s, a, machine)
    found = _alike(sorted(model.plans(), key=lambda p: p.cycles))
    if knobs == Knobs():
        return found
    chosen = [p for p in found if _has(p.plan.knobs, replace(knobs, stream=None, prefetch=None))] or found
    return [
        replace(
            p,
            plan=replace(
                p.plan, stream=knobs.stream or p.plan.stream, prefetch=knobs.prefetch or p.plan.prefetch
            ),
        )
        for p in chosen
    ]


def _alike(found: list[Priced]) -> list[Priced]:
    """Plans with the longest chunks of K: all of them add the terms of an element in the same order."""
    longest = max(prod(p.plan.chunk.values()) for p in found)
    return [p for p in found if prod(p.plan.chunk.values()) == longest]


def _has(given: Knobs, wanted: Knobs) -> bool:
    names = ("rows", "slab", "order", "columns", "stage", "inner", "stream", "prefetch")
    return all(getattr(wanted, n) in (None, getattr(given, n)) for n in names)


# Shares of a run on 1, 2, 4 and 8 cores: the split should be even for few, and not impossible for many.
_CORES = ((1, 0.4), (2, 0.4), (4, 0.1), (8, 0.1))
# Cycles that a grid barrier costs, and a loop over blocks: what it cannot overlap.
_BARRIER, _LOOP = 3000, 300
# What writing results column by column, far apart in memory, costs beside writing them row by row.
_SCATTERED = 1.1
# Blocks of each kind that are looked at closely on a slab, and what each slab adds to a first guess.
_BLOCKS, _SLAB_SHARE = 1, 0.002


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
        self.pack = max(1, limits.get("k_pack_bytes", 1) // self.size)
        self.k = prod(d.extent for d in s.k)
        self.extents = {d.name: d.extent for d in (*s.m, *s.k)}
        self.around = prod(d.extent for d in s.batch)
        self.n = prod(d.extent for d in s.n)
        self.weights = self.k * self.n * self.size
        whole = {d.name: d.extent for d in s.m}
        self.rows, self.results = self.touched(whole), prod(whole.values()) * self.n * self.size
        self.direct = in_place(a.read, a.tensor)
        self._copied: dict[object, RowLayout] = {}
        self._forms: dict[int, tuple[RowLayout, Affine, dict[str, int]]] = {}

    def plans(self) -> Iterator[Priced]:
        """The most promising blocks on every slab, priced: with rows of one image row, and with others."""
        for slab in slabs(self.s.m):
            dims = tuple(Dim(d.name, slab[d.name]) for d in self.s.m)
            for folded in (False, True):
                rough = [
                    (self._rough(slab, rows, columns), at, rows, columns)
                    for columns in self._columns()
                    for at, rows in enumerate(choices(dims, self.tile_rows, self._most(columns)))
                    if bool(rows.inner) is folded
                ]
                for _, _, rows, columns in sorted(rough)[:_BLOCKS]:
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
            layout, split = self._layout(stage, box, rows)
            chunk = self._form(layout)[1] if layout else {}
            if layout is None or not self._loadable(layout, rows, chunk, stage):
                continue
            if stage == "slab" and layout.elements * self.size > self.machine.role("stage").capacity:
                continue
            yield from self._ordered(slab, rows, columns, stage, layout, split, chunk)

    def _layout(self, stage: str, box: dict[str, int], rows: Rows) -> tuple[RowLayout | None, Axes]:
        """Rows in place or in a copy, and the axes whose window dims that sets apart; None where it cannot be."""
        if stage == "direct":
            return None if self.a.copy else self.direct, ()
        if self.around > 1 and stage == "whole":
            return None, ()
        # Taps that share an axis with rows are copied once each where they are set apart: the fewer, the smaller.
        axes = self._shared(rows)
        for split in ((), *((axis,) for axis in axes), axes):
            layout = self._copy(box, rows.inner, split)
            if self._even(layout, rows) and self._paired(layout):
                break
        return layout, split

    def _shared(self, rows: Rows) -> Axes:
        """Axes of operand A that a window walks together with rows of a tile, or pairs with any rows."""
        pair, tile, summed = pair_dim(self.s), set(rows.tile), self.a.summed
        mixed = (
            (at, f.names) for at, f in enumerate(self.a.read.index) if f.names & summed and f.names - summed
        )
        return tuple(at for at, names in mixed if names & tile or pair in names)

    def _paired(self, layout: RowLayout) -> bool:
        """Whether chunks of K hold whole groups of what the cube wants side by side."""
        return prod(self._form(layout)[1].values()) % self.pack == 0

    def _copy(self, box: dict[str, int], inner: str, split: Axes) -> RowLayout:
        key = (*box.items(), inner, split)
        if key not in self._copied:
            a = self.a
            pair = pair_dim(self.s)
            self._copied[key] = copied(a.read, a.tensor, box, a.summed, self.room, inner, split, pair)
        return self._copied[key]

    def _loadable(self, layout: RowLayout, rows: Rows, chunk: dict[str, int], stage: str) -> bool:
        """Whether tile registers can be loaded from the layout; copies are not made for nothing."""
        if not self._even(layout, rows) or not self._paired(layout) or (stage == "direct" and rows.inner):
            return False
        if stage == "direct":
            return prod(chunk.values()) * 2 > min(self.room, self.k)
        if self.a.copy or not self._even(self.direct, rows):
            return True
        return prod(self._form(self.direct)[1].values()) * 2 <= min(self.room, self.k)

    def _form(self, layout: RowLayout) -> tuple[Affine, dict[str, int]]:
        """The layout's linear form and chunk of K; many plans share a layout."""
        if id(layout) not in self._forms:
            self._forms[id(layout)] = layout, layout.linear(), contiguous(layout, self.s.k, self.room)
        return self._forms[id(layout)][1:]

    def _even(self, layout: RowLayout, rows: Rows) -> bool:
        """Whether the rows of a tile lie at one distance."""
        form, _ = self._form(layout)
        step: int | None = None
        for name, size in reversed(rows.tile.items()):
            if size == 1:
                continue
            if step is not None and form.coefficient(name) != step:
                return False
            step = form.coefficient(name) * size
        return True

    def _ordered(
        self, slab: dict[str, int], rows: Rows, columns: int, stage: str, layout: RowLayout, split: Axes,
        chunk: dict[str, int],
    ) -> Iterator[Priced]:  # fmt: skip
        price = _Price(self, slab, rows, columns, stage, layout, chunk)
        for parallel, per, tasks in self._parallel(slab):
            for inner in ("rows",) if per == 1 else ("rows", "columns"):
                prefetch = "on" if inner == "rows" and self.weights > self.l2 else "off"
                stream = price.stream(inner)
                plan = TilePlan(
                    rows, slab, stage, layout, split, chunk, columns, parallel, per, inner, stream, prefetch
                )
                yield Priced(price.of(per, tasks, inner, stream, prefetch == "on"), plan)

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
        depth = prod(chunk.values())
        taps = max(1, round(self.a / max(1.0, self.under_block)))
        self.window = self.under_block * depth * taps / model.k + taps * depth * columns * model.size
        self.copied = layout.elements * model.size
        self.copies = self.copied * model.copy_rate

    def of(self, per: int, tasks: int, inner: str, stream: str, prefetch: bool) -> float:
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
        near, far = passes * max(self.cube, self._loads(inner, stream)), self._far(per, tasks, inner)
        # Without prefetches only the first block of new columns waits, but it waits alone.
        hidden = 1.0 if prefetch or m.weights <= m.l2 else 1 - 1 / self.blocks if inner == "rows" else 0.0
        busy = max(near, far) + (1 - hidden) * min(near, far)
        return (busy + _LOOP * loops) * even + copy

    def stream(self, inner: str) -> str:
        """The operand whose tiles should pass the nearest cache by: where nothing is cheaper, the one that is
        wanted again last, unless the taps of a window share it.
        """
        last = "a" if inner == "rows" and self.a < 2 * self.under_block else "b"
        return min(("none", "b", "a"), key=lambda s: (self._loads(inner, s), s != last))

    def _loads(self, inner: str, stream: str) -> float:
        """Cycles that loading the tiles of one block takes, by where they are found."""
        m, a, b = self.model, float(self.a), float(self.b)
        if stream != "a" and self.window <= m.l1:
            a = min(a, self.under_block)  # what the taps of a window share is loaded once
        if stream == "none":
            keep_a = keep_b = self.under_block + b <= m.l1
        else:
            keep_a, keep_b = (stream == "b" and self.under_block <= m.l1), (stream == "a" and b <= m.l1)
        if keep_a and (inner == "columns" or self.under_slab <= m.l1 // 2):
            a = self.under_block / self.wide
        if keep_b and inner == "rows":
            b /= self.blocks
        elif keep_b and m.weights <= m.l1 // 2:
            b /= self.blocks * self.slabs
        return m.middle * (a + b) + m.near * (self.a + self.b - a - b)

    def _far(self, per: int, tasks: int, inner: str) -> float:
        """Cycles of the bytes that come from beyond the second cache level, or go there."""
        m = self.model
        rows, results, weights = (float(n * m.around) for n in (m.rows, m.results, m.weights))
        if rows + weights + results <= m.l2:
            return 0.0
        slab, mine = self._slab(), m.weights / (tasks if per else 1)
        weights *= self.slabs if slab + mine > m.l2 else 1
        weights *= self.blocks if inner == "columns" and mine > m.l2 else 1
        again = tasks if per and rows > m.l2 / 2 else 1
        if inner == "rows" and slab + self.b > m.l2:
            again = self.wide  # every block of columns finds that the slab's rows are gone
        if inner == "rows" and (per or self.slabs == 1) and results > m.l2 / 2:
            results *= _SCATTERED
        if self.stage == "whole" and self.copied > m.l2 / 2:
            rows += 3 * self.copied  # fetched, written back, and read again
        rows += (again - 1) * slab * self.slabs * m.around
        return m.far * (rows + weights + results)

    def _slab(self) -> float:
        """Bytes of operand A that a slab is read from."""
        if self.stage == "direct":
            return self.under_slab
        return self.copied / (self.slabs if self.stage == "whole" else 1)
