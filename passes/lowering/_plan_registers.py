"""Plans for machines whose cube reads memory and accumulates in registers.

All of K goes into one instruction per register block. What is chosen: the slab of rows that a pass over
the columns works on, whether slabs or blocks of columns are spread over cores, and the register blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from opc.machine.model import Machine
from passes.lowering._blocks import Cut, Extents, Unit, blocks_of, cut
from passes.lowering._knobs import Knobs
from passes.lowering._plan import Plan, Shape, balanced, divisors, slab_bytes

# How often a kernel is thought to run on so many threads: a plan must not depend on the number.
THREADS = {1: 5, 2: 5, 4: 3, 8: 2, 16: 1}
FORK = 3000.0  # cycles of starting a phase on several threads
PER_TASK = 200.0
# Cycles of writing a piece of a row when its neighbours follow only after everything else was touched: a
# page looked up and a line fetched, with nothing to foresee either.
_FAR_WRITE = 40.0
_LINE = 64
_ASK = 0.6  # cycles that asking for a line takes beside multiply-adds
_MOST_TASKS = 64

# Where a machine file says nothing.
TYPICAL = {
    "fma_per_cycle": 2, "fma_latency": 4, "loads_per_cycle": 2, "l2_bytes_per_cycle": 32, "l3_bytes_per_cycle": 10,
    "memory_bytes_per_cycle": 4, "l1_bytes": 1 << 15, "l1_ways": 8, "l2_bytes": 1 << 19, "l3_core_bytes": 1 << 23,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cost:
    """The contraction on this machine: sizes in bytes, rates in bytes per cycle."""

    shape: Shape
    machine: Machine
    unit: Unit
    ready: bool

    @property
    def terms(self) -> int:
        """Multiply-adds of an accumulator, each of as many terms as the cube takes at once."""
        return prod(d.extent for d in self.shape.k) // self.machine.cube_shape[self.shape.operand][2]

    @property
    def panel(self) -> int:
        """Weights of one block of columns."""
        return self.terms * self.unit.vectors * self.unit.vector_bytes

    @property
    def panels(self) -> int:
        width = self.unit.vectors * self.unit.vector_bytes // self.shape.accumulator.bytes
        columns = prod(d.extent for d in self.shape.n)
        return (
            prod(d.extent for d in self.shape.n[:-2]) * max(1, ceil(columns / width)) if self.shape.n else 1
        )

    def cut(self, tile: dict[str, int]) -> tuple[float, Cut | None]:
        """Cycles of one slab on one panel, and its register blocks."""
        return cut(_rows(self.shape, tile, self.ready), self.unit, self.terms)

    def again(self, size: float, distance: float, meanwhile: float) -> float:
        """Cycles that reading ``size`` bytes once more adds to the ``meanwhile`` cycles of work on them, when
        ``distance`` bytes were touched since: nothing from the near caches, else the less the slower they are used.
        """
        rate = self.rate(distance)
        return size / rate * min(1.0, size / meanwhile / rate) if rate else 0.0

    def rate(self, distance: float) -> int:
        """Bytes per cycle from where data lie after ``distance`` other bytes; 0: near."""
        limits = {**TYPICAL, **self.machine.limits}
        if distance <= limits["l2_bytes"] * 7 // 8:
            return 0
        return limits[
            "l3_bytes_per_cycle" if distance <= limits["l3_core_bytes"] else "memory_bytes_per_cycle"
        ]

    def prefetch(self, plan: Plan, knobs: Knobs) -> bool:
        """Whether every block of rows asks for the lines of its columns ahead of their use: it helps only the
        first on a panel that comes from afar.
        """
        if plan.inline:
            return False
        if knobs.prefetch or not self.machine.prefetch_pipe:
            return knobs.prefetch == "on" and self.machine.prefetch_pipe != ""
        rate, slab = self.rate(self.panel * self.panels), slab_bytes(self.shape, plan.outer)
        blocks = blocks_of(self.cut(plan.outer)[1])
        if plan.columns and not self.rate(plan.columns * self.panel + slab):
            blocks *= prod(self.tiles(plan)[d.name] for d in self.shape.m)  # they stay near for the next slab
        return bool(rate) and _LINE / rate > _ASK * blocks

    def staging(self, size: float) -> float:
        """Cycles of copying that many bytes of rows, which come from afar, to where they are padded or widened."""
        memory, stage = self.machine.roles["memory"], self.machine.roles["stage"]
        route = self.machine.route("copy_in", memory, stage)
        if self.ready or route is None:
            return 0.0
        return size / route.bandwidth + size / (self.rate(self.everything) or route.bandwidth)

    def scattered(self, plan: Plan) -> float:
        """Cycles that the results of one slab and panel take where they are written far apart."""
        s, limits = self.shape, {**TYPICAL, **self.machine.limits}
        rows = prod(plan.outer[d.name] for d in s.m)
        between = prod(d.extent for d in (*s.batch, *s.m)) if plan.columns else rows
        if self.everything <= limits["l3_core_bytes"] or not self.rate(between * self.row):
            return 0.0
        return _FAR_WRITE * rows * ceil(self.unit.vectors * self.unit.vector_bytes / _LINE)

    @property
    def row(self) -> int:
        """Bytes of all columns of a row of the result."""
        return self.shape.accumulator.bytes * prod(d.extent for d in self.shape.n)

    @property
    def everything(self) -> int:
        """Bytes of all operands and the result."""
        s = self.shape
        rows = slab_bytes(s, {d.name: d.extent for d in s.m}) * prod(d.extent for d in s.batch)
        result = self.row * prod(d.extent for d in (*s.batch, *s.m))
        return rows + result + self.panel * self.panels

    def of(self, plan: Plan) -> float:
        """Cycles per core, averaged over numbers of threads; staging by all cores together comes first."""
        s, blocks = self.shape, self.tiles(plan)
        tasks = blocks.get(plan.parallel, 1)
        slabs = prod(blocks[d.name] for d in (*s.batch, *s.m))
        groups = ceil(self.panels / plan.columns) if plan.columns else 1
        total = sum(THREADS.values())
        cycles = 0.0
        for threads, weight in THREADS.items():
            share = ceil(tasks / threads) / tasks
            mine = (slabs, groups * share) if plan.columns else (slabs * share, groups)
            spread = 1.0 / min(threads, tasks) / share
            cycles += weight / total * threads * self._core(plan, *mine) * max(1.0, spread)
            if plan.shared:
                cycles += weight / total * (FORK * (threads > 1) + self._whole(plan))
        return cycles + PER_TASK * tasks + self._packing(plan)

    def _packing(self, plan: Plan) -> float:
        """Cycles, of all cores together, of packing columns that arrive at run time."""
        size = self.panel * self.panels * prod(d.extent for d in self.shape.batch)
        memory, stage = self.machine.roles["memory"], self.machine.roles["stage"]
        route = self.machine.route("copy_in", memory, stage)
        if self.shape.run is None or route is None:
            return 0.0
        rate = self.rate(self.everything) or route.bandwidth
        if plan.inline:  # the neighbours of a short piece come with it
            piece = self.shape.run * plan.columns
            return size / route.bandwidth + size / rate * (1 + _LINE / piece if piece else 1)
        again = self.rate(size)
        return FORK + size / route.bandwidth + size / rate + (2 * size / again if again else 0.0)

    def tiles(self, plan: Plan) -> dict[str, int]:
        """Iterations of every loop at the staging level."""
        s = self.shape
        return {d.name: ceil(d.extent / plan.outer[d.name]) for d in (*s.batch, *s.m, *s.n[-2:-1])}

    def _whole(self, plan: Plan) -> float:
        whole = {d.name: d.extent for d in self.shape.m}
        return self.staging(slab_bytes(self.shape, whole) * prod(d.extent for d in self.shape.batch))

    def _core(self, plan: Plan, slabs: float, groups: float) -> float:
        """Cycles of one core on ``slabs`` slabs, each passed over by every panel of ``groups`` groups."""
        per = plan.columns or self.panels
        slab, work = slab_bytes(self.shape, plan.outer), self.cut(plan.outer)[0]
        first = self.terms * self.unit.step(self.unit.rows)  # of the blocks of a panel, which brings it near
        panels, passes = groups * per, slabs * groups
        rows = passes * (per - 1) * self.again(slab, slab + self.panel, work)
        rows += max(0.0, passes - slabs) * self.again(slab, slabs * slab + per * self.panel, work)
        rows += 0.0 if plan.shared else passes * self.staging(slab)
        batches = prod(d.extent for d in self.shape.batch)
        rows += slabs * panels * self.scattered(plan)
        repeats = max(0.0, slabs - batches) * panels
        return slabs * panels * work + rows + repeats * self.again(self.panel, per * self.panel + slab, first)


def plan_registers(s: Shape, machine: Machine, ready: bool, knobs: Knobs) -> Plan:
    """The cheapest plan by the model. ``ready``: rows can be read where they are."""
    return ranked(s, machine, ready, knobs)[0]


def ranked(s: Shape, machine: Machine, ready: bool, knobs: Knobs) -> list[Plan]:
    """Plans that respect the knobs, cheapest first."""
    cost = _Cost(s, machine, unit_of(s, machine, knobs), ready)
    found = [p for tile in _slabs(s, cost, knobs) for p in _spreads(s, machine, tile, ready, knobs)]
    return [replace(p, prefetch=cost.prefetch(p, knobs)) for p in sorted(found, key=cost.of)]


def unit_of(s: Shape, machine: Machine, knobs: Knobs) -> Unit:
    """The multipliers as the block model wants them."""
    rows, columns, _ = machine.cube_shape[s.operand]
    width = min(s.n[-1].extent, columns) if s.n else 1
    lanes = machine.vector_bytes // s.accumulator.bytes
    limits = {**TYPICAL, **machine.limits}
    panel = prod(d.extent for d in s.k) * width * s.operand.bytes
    near = machine.vector_bytes * limits["loads_per_cycle"]
    return Unit(
        limits["fma_per_cycle"], limits["loads_per_cycle"], limits["fma_latency"],
        near if 2 * panel <= limits["l1_bytes"] else limits["l2_bytes_per_cycle"],
        min(rows, knobs.rows or rows), ceil(width / lanes), machine.vector_bytes,
        limits["l1_bytes"] // (limits["l1_ways"] * _LINE), limits["l1_ways"], limits["l2_bytes_per_cycle"],
        s.operand.bytes * s.slab_channel,
    )  # fmt: skip


def cut_of(s: Shape, machine: Machine, ready: bool, knobs: Knobs, tile: dict[str, int]) -> Cut | None:
    """The register blocks of a slab."""
    return _Cost(s, machine, unit_of(s, machine, knobs), ready).cut(tile)[1]


def _rows(s: Shape, tile: dict[str, int], ready: bool) -> Extents:
    """The row dims of a slab, with how far apart rows lie: in memory, or in a padded copy with channels inside."""
    if ready:
        return tuple((d.name, tile[d.name], s.apart[d.name], *s.reach[d.name]) for d in s.m)
    found, size = [], s.operand.bytes * s.slab_channel
    for d in reversed(s.m):
        stride, extra = s.reach[d.name]
        found.append((d.name, tile[d.name], size * (stride if extra else 1), stride, extra))
        size *= (d.extent - 1) * stride + 1 + extra if extra else d.extent
    return tuple(reversed(found))


def alternatives(s: Shape, machine: Machine, ready: bool) -> list[Knobs]:
    """The closest rivals of the model's choice: other slabs, the other order, lower blocks."""
    plans = ranked(s, machine, ready, Knobs())
    best = _knobs(s, plans[0])
    found = [k for p in plans[1:] if (k := _knobs(s, p)) != best]
    other = next((k for k in found if k.order != best.order), None)
    rows = unit_of(s, machine, Knobs()).rows
    lower = [Knobs(rows=r) for r in (rows - 1, rows * 2 // 3) if s.m and r > 0]
    picked = [
        Knobs(prefetch="off" if plans[0].prefetch else "on"),
        *found[:3],
        *([other] if other else []),
        *lower,
    ]
    return list(dict.fromkeys(picked))


def _knobs(s: Shape, plan: Plan) -> Knobs:
    slab = plan.outer[s.m[-2].name] if len(s.m) > 1 else plan.outer[s.m[-1].name] if s.m else None
    images = plan.outer[s.m[-3].name] if len(s.m) > 2 else None
    return Knobs(slab=slab, images=images, order="columns" if plan.columns else "rows")


def _slabs(s: Shape, cost: _Cost, knobs: Knobs) -> Iterator[dict[str, int]]:
    """Tiles of the M dims; the innermost is whole unless a single row of it is too large."""
    one = dict.fromkeys((d.name for d in s.m), 1)
    if not s.m:
        yield one
        return
    q = s.m[-1]
    if len(s.m) == 1:
        yield from ({q.name: t} for t in _wanted(_lengths(q.extent, cost.unit.rows), knobs.slab, q.extent))
        return
    p, capacity = s.m[-2], cost.machine.role("stage").capacity
    width = q.extent
    while width > cost.unit.rows and slab_bytes(s, {q.name: width}) > capacity:
        width = balanced(q.extent, ceil(width / 2))
    for rows in _wanted(_parts(p.extent), knobs.slab, p.extent):
        whole = rows == p.extent and len(s.m) > 2
        images = _wanted(
            _parts(s.m[-3].extent) if whole else {1}, knobs.images, s.m[-3].extent if len(s.m) > 2 else 1
        )
        for n in images:
            outside = {s.m[-3].name: n} if len(s.m) > 2 else {}
            yield {**one, **outside, p.name: rows, q.name: width}


def _lengths(extent: int, block: int) -> set[int]:
    """Slabs of a single row dim: divisors, and where few are of use, whole blocks."""
    found = {d for d in divisors(extent) if extent // d <= _MOST_TASKS and (d >= block or d == extent)}
    if len(found) > 3:
        return found
    return found | {min(extent, block * ceil(extent / (block * n))) for n in (1, 2, 4, 8, 16, 32, 64)}


def _parts(extent: int) -> set[int]:
    """Tile sizes: divisors, and where there are few, tiles as even as possible."""
    found = set(divisors(extent))
    return found if len(found) > 2 else found | {balanced(extent, ceil(extent / n)) for n in (2, 4, 8, 16)}


def _wanted(sizes: set[int], fixed: int | None, extent: int) -> list[int]:
    return [min(fixed, extent)] if fixed else sorted(sizes)


def _spreads(s: Shape, machine: Machine, tile: dict[str, int], ready: bool, knobs: Knobs) -> Iterator[Plan]:
    """Every dim whose blocks can be spread over cores, for one slab."""
    block_n = machine.cube_shape[s.operand][1]
    outer = {**dict.fromkeys((d.name for d in (*s.batch, *s.n)), 1), **tile}
    if s.n:
        outer[s.n[-1].name] = min(s.n[-1].extent, block_n)
    whole = {d.name: d.extent for d in s.k}
    columns = _has_columns(s) and knobs.order != "rows"
    fits = ready or slab_bytes(s, tile) <= machine.role("stage").capacity
    if not columns or (fits and knobs.order is None):
        spread = [d.name for d in (*s.batch, *s.m) if outer[d.name] < d.extent]
        yield from (Plan(name, outer, whole) for name in spread or [""])
    if columns:
        blocks = s.n[-2]
        for per in sorted({balanced(blocks.extent, n) for n in (1, 2, 4)}):
            by_columns = {**outer, blocks.name: per}
            yield Plan(blocks.name, by_columns, whole, per, shared=not ready)
        panel = s.operand.bytes * outer[s.n[-1].name] * prod(whole.values())
        most = machine.role("stage").capacity // panel if s.run is not None else 0
        for per in sorted({balanced(blocks.extent, n) for n in (1, 2, 4, 8) if n <= most}):
            by_columns = {**outer, blocks.name: per}
            yield Plan(blocks.name, by_columns, whole, per, shared=not ready, inline=True)


def _has_columns(s: Shape) -> bool:
    return len(s.n) > 1 and s.n[-2].extent > 1
