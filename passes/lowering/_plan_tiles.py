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
from passes.lowering._tile_columns import NearColumns
from passes.lowering._tile_price import Price

Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TilePlan:
    """``slab``: the box of rows between which operand A may be copied anew; ``stage``: no copy ("direct"), one
    per slab, or one of everything before all else ("whole"), of ``layout``, window dims apart from the others
    on the axes ``split``. ``columns``: of an accumulator block. ``parallel``: the dim spread over cores, ``per``
    blocks of columns an iteration if it is one of columns.
    ``inner``: whether rows or columns go round inside. ``stream``: the operand that should not stay near.
    ``prefetch``: whether every block brings its part of the next columns nearer ("on"). ``near``: columns are packed
    near the core, once per slab.
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
    near: bool

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
    """What a plan needs to know of operand A beside the shape. ``copy``: it cannot be read where it lies; ``columns``:
    how operand B could be packed near.
    """

    read: Read
    tensor: Tensor
    summed: frozenset[str]
    copy: bool
    ragged: bool
    columns: NearColumns | None = None


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
    model = Model(s, a, machine)
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


# Blocks of each kind that are looked at closely on a slab, and what each slab adds to a first guess.
_BLOCKS, _SLAB_SHARE = 1, 0.002


class Model:
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
        price = Price(self, slab, rows, columns, stage, layout, chunk)
        for parallel, per, tasks in self._parallel(slab):
            for inner in ("rows",) if per == 1 else ("rows", "columns"):
                stream = price.stream(inner)
                near = inner == "rows" and price.near()
                prefetch = "on" if inner == "rows" and self.weights > self.l2 and not near else "off"
                plan = TilePlan(
                    rows, slab, stage, layout, split, chunk, columns, parallel, per, inner, stream, prefetch,
                    near,
                )  # fmt: skip
                yield Priced(price.of(per, tasks, inner, stream, prefetch == "on", near), plan)

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
