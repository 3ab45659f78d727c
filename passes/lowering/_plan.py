"""Tile sizes of a contraction, chosen by a cost model over the machine's rates and capacities.

Two shapes of machine exist: those whose cube reads operand spaces of its own (an NPU), where a tile
must fit operand, accumulator and vector spaces; and those whose cube reads memory and accumulates
in registers (a CPU), where the register block is given and the staged slab is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from opc.dtypes import DType
from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.tensor.ir import Dim

# Half of every on-chip buffer is left to the second slot of double buffering.
_SHARE = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """What the plan needs to know of one contraction. ``mixed``: K dims that share a tensor axis with an M dim."""

    batch: tuple[Dim, ...]
    m: tuple[Dim, ...]  # slowest first, in the output's memory order
    n: tuple[Dim, ...]
    k: tuple[Dim, ...]  # outermost first
    operand: DType
    accumulator: DType
    reach: dict[str, tuple[int, int]]  # M dim -> (stride, extra rows) of the slab that A's read touches
    slab_channel: int  # elements of A per slab position: product of K extents on pure-K axes
    temporaries: int  # f32 tiles the epilogue keeps alive


@dataclass(frozen=True, slots=True)
class Plan:
    """``outer``: loop tile of every batch, M and N dim at the staging level. ``inner``: the cube's block of the
    innermost M dims. ``chunk``: K tile per cube instruction. ``parallel``: dim spread over cores.
    ``columns``: blocks of the outer N dim per parallel iteration where columns, not rows, are spread (0: rows).
    ``rows_outer``: row tiles go round outside column tiles, so that rows are staged once.
    """

    parallel: str
    outer: dict[str, int]
    inner: dict[str, int]
    chunk: dict[str, int]
    columns: int = 0
    rows_outer: bool = False


def balanced(extent: int, limit: int) -> int:
    """Largest tile <= limit that splits the extent into equal-as-possible blocks."""
    return ceil(extent / ceil(extent / max(1, min(limit, extent))))


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def plan_registers(s: Shape, machine: Machine) -> Plan:
    """Plan for a machine whose cube reads memory, or is fed from it tile by tile."""
    block_m, block_n, block_k = machine.cube_shape[s.operand]
    if machine.feeds(s.operand):
        block_m = machine.limits.get("block_rows", block_m)
        block_n = machine.limits.get("block_columns", block_n)
    outer = {d.name: 1 for d in (*s.batch, *s.m, *s.n)}
    if s.n:
        outer[s.n[-1].name] = min(s.n[-1].extent, block_n)
    inner: dict[str, int] = {}
    capacity = machine.role("stage").capacity
    if s.m:
        inner[s.m[-1].name] = register_rows(s.m[-1].extent, block_m)
        outer.update(_slab_rows(s, inner[s.m[-1].name], capacity, _TASKS))
    whole = {d.name: d.extent for d in s.k}
    chunk = _innermost(s.k, block_k) if machine.feeds(s.operand) else whole
    rows = Plan(_parallel(s, outer, _TASKS), outer, inner, chunk)
    return _by_columns(s, rows, capacity) or rows


def _by_columns(s: Shape, rows: Plan, capacity: int) -> Plan | None:
    """The plan that keeps columns stationary, where re-reading the weights for every slab would cost more."""
    if len(s.n) < 2 or not s.m or s.batch or s.n[-2].extent < 2:
        return None
    blocks = s.n[-2].extent
    outer = {**rows.outer, **_slab_rows(s, rows.inner[s.m[-1].name], capacity, 1)}
    per = max(1, blocks // _TASKS)
    weights = s.operand.bytes * prod(d.extent for d in (*s.k, *s.n))
    slabs, fewer = (prod(ceil(d.extent / o[d.name]) for d in s.m) for o in (rows.outer, outer))
    # Weights within reach of a core are re-read at no cost; half as much again is what a guess may be off.
    if weights <= 2 * capacity or weights * slabs <= 1.5 * (
        weights * fewer + fewer * _slab(s, outer) * (blocks // per)
    ):
        return None
    outer[s.n[-2].name] = per
    return Plan(s.n[-2].name, outer, rows.inner, rows.chunk, per)


def _innermost(dims: tuple[Dim, ...], room: int) -> dict[str, int]:
    """Innermost dims whole while their product fits, then one divided, the rest one at a time."""
    chunk = {d.name: 1 for d in dims}
    for d in reversed(dims):
        chunk[d.name] = min(d.extent, room)
        room //= chunk[d.name]
        if chunk[d.name] < d.extent or room < 2:
            break
    return chunk


def register_rows(extent: int, limit: int) -> int:
    """Rows of a register block: a divisor close to the limit if there is one, else as even as possible.

    Fewer rows leave multipliers idle while an addition's latency passes, so blocks stay near the limit.
    """
    exact = [t for t in range(limit, max(1, limit * 2 // 3) - 1, -1) if extent % t == 0]
    return exact[-1] if exact else balanced(extent, limit)


# Enough parallel blocks for a many-core host without making the halo of each slab costly.
_TASKS = 12


def _slab_rows(s: Shape, block: int, budget: int, tasks: int) -> dict[str, int]:
    """Tile of the two innermost M dims: the largest slab within the budget that leaves enough blocks."""
    q = s.m[-1]
    if len(s.m) == 1:
        return {q.name: min(q.extent, block * max(1, ceil(q.extent / (tasks * block))))}
    p = s.m[-2]
    width = q.extent
    while width > block and _slab(s, {q.name: width}) > budget:
        width = block * max(1, ceil(width / 2 / block))
    others = prod(d.extent for d in s.m[:-2]) * prod(d.extent for d in s.batch)
    fitting = [t for t in divisors(p.extent) if _slab(s, {q.name: width, p.name: t}) <= budget] or [1]
    spread = [t for t in fitting if p.extent // t * others >= tasks]
    # Fewer blocks than wanted are better than slabs of one row, which would be mostly halo.
    tile = max(spread) if spread else max([t for t in fitting if t * 4 <= p.extent] or [fitting[0]])
    return {q.name: width, p.name: tile}


def _slab(s: Shape, tile: dict[str, int]) -> int:
    size = s.operand.bytes * s.slab_channel
    for d in s.m:
        stride, extra = s.reach[d.name]
        t = tile.get(d.name, 1)
        size *= (t - 1) * stride + 1 + extra
    return size


def _parallel(s: Shape, outer: dict[str, int], cores: int) -> str:
    """The dim whose blocks spread best over the cores; batch, then M, then N on ties."""
    best, best_use = "", 0.0
    for d in (*s.batch, *s.m, *s.n):
        blocks = ceil(d.extent / outer[d.name])
        use = min(blocks / (cores * ceil(blocks / cores)), 1.0) * min(blocks, cores)
        if use > best_use * 1.05:
            best, best_use = d.name, use
    return best


@dataclass(frozen=True, slots=True)
class _Limits:
    operand_a: int
    operand_b: int
    accumulator: int
    vector: int
    stage: int


def plan_spaces(s: Shape, machine: Machine) -> Plan:
    """Plan for a machine with operand spaces; MachineError E0630 if nothing fits."""
    limits = _Limits(
        *(
            machine.role(r).capacity // _SHARE
            for r in ("operand_a", "operand_b", "accumulator", "vector", "stage")
        )
    )
    best: tuple[float, Plan] | None = None
    for outer in _tilings(s):
        chunk = _chunk(s, outer, limits, machine)
        if chunk is None or not _fits(s, outer, limits, machine):
            continue
        plan = Plan(_parallel(s, outer, machine.cores), outer, {}, chunk)
        plan = replace(plan, rows_outer=_rows_outer(s, plan, machine))
        cost = _cost(s, plan, machine)
        if best is None or cost < best[0]:
            best = (cost, plan)
    if best is None:
        raise fail(
            MachineError,
            "E0630",
            f"no tile of this contraction fits the on-chip memories of '{machine.name}'",
            help="give the machine a larger stage, operand, accumulator or vector space",
        )
    return best[1]


def _tilings(s: Shape) -> Iterator[dict[str, int]]:
    base = {d.name: 1 for d in (*s.batch, *s.m, *s.n)}
    n = s.n[-1] if s.n else None
    ns = sorted({balanced(n.extent, 16 * b) for b in (1, 2, 4, 8, 16)}) if n else [1]
    for tile in _m_tiles(s.m):
        for nt in ns:
            outer = {**base, **tile}
            if n:
                outer[n.name] = nt
            yield outer


def _m_tiles(m: tuple[Dim, ...]) -> Iterator[dict[str, int]]:
    if not m:
        yield {}
        return
    inner = m[-1]
    sizes = sorted({balanced(inner.extent, x) for x in (16, 32, 64, 128, 256, 512)})
    for t in sizes:
        if t < inner.extent or len(m) == 1:
            yield {inner.name: t}
            continue
        rows = m[-2]
        for r in (
            divisors(rows.extent)
            if rows.extent <= 512
            else [balanced(rows.extent, x) for x in (1, 2, 4, 8, 16)]
        ):
            if r * t > 1024:
                break
            yield {inner.name: t, rows.name: r}


def _round(n: int, to: int) -> int:
    return ceil(n / to) * to


def _mn(s: Shape, outer: dict[str, int], machine: Machine) -> tuple[int, int]:
    m0, n0, _ = machine.cube_shape[s.operand]
    m = prod(outer[d.name] for d in s.m)
    n = prod(outer[d.name] for d in s.n)
    return _round(m, m0), _round(n, n0)


def _fits(s: Shape, outer: dict[str, int], limits: _Limits, machine: Machine) -> bool:
    m, n = _mn(s, outer, machine)
    return m * n * s.accumulator.bytes <= limits.accumulator and m * n * 4 * s.temporaries <= limits.vector


def _chunk(s: Shape, outer: dict[str, int], limits: _Limits, machine: Machine) -> dict[str, int] | None:
    """Innermost K dims whole while they fit the operand spaces, the next one split."""
    m, n = _mn(s, outer, machine)
    k0 = machine.cube_shape[s.operand][2]
    room = (
        min(limits.operand_a // (m * s.operand.bytes), limits.operand_b // (n * s.operand.bytes)) // k0 * k0
    )
    if room < k0:
        return None
    chunk = {d.name: 1 for d in s.k}
    size = 1
    for d in reversed(s.k):
        fit = [t for t in divisors(d.extent) if size * t <= room]
        whole = fit[-1] == d.extent
        # A ragged split beats a tiny divisor: peel the remainder instead.
        take = (
            fit[-1]
            if whole or fit[-1] * 4 > room // size
            else balanced(d.extent, room // size // k0 * k0 or 1)
        )
        chunk[d.name] = take
        size *= take
        if take < d.extent:
            break
    return chunk


def _cost(s: Shape, plan: Plan, machine: Machine) -> float:
    """Cycles of the busiest core, each pipe hiding behind the slowest, plus what start-up exposes."""
    m, n = _mn(s, plan.outer, machine)
    m0, n0, k0 = machine.cube_shape[s.operand]
    kc = prod(plan.chunk.values())
    chunks = prod(ceil(d.extent / plan.chunk[d.name]) for d in s.k)
    size = s.operand.bytes

    def rate(opcode_class: str, source: str, target: str) -> float:
        route = machine.route(opcode_class, machine.roles[source], machine.roles[target])
        return route.bandwidth if route else float("inf")

    kr = _round(kc, k0)
    cube = chunks * ((m // m0) * (n // n0) * (kr // k0) + machine.cube_issue)
    to_a = m * kr * size / rate("copy_in", "stage", "operand_a")
    to_b = n * kr * size / rate("copy_in", "stage", "operand_b")
    drain = m * n * s.accumulator.bytes / rate("scale", "accumulator", "vector")
    default = machine.vector_costs["default"]
    vector = s.temporaries * (m * n * 4 / machine.vector_bytes * default.slope + default.head + default.tail)
    out = m * n * size / rate("copy_out", "vector", "memory")
    load = rate("copy_in", "memory", "stage")
    slab = _slab(s, plan.outer) / load
    k = prod(d.extent for d in s.k)
    weights = n * k * size / load
    blocks = {d.name: ceil(d.extent / plan.outer[d.name]) for d in (*s.batch, *s.m, *s.n)}
    per_core = {**blocks, plan.parallel: ceil(blocks.get(plan.parallel, 1) / machine.cores)}
    tiles = prod(per_core.values())
    loads = _loads(s, plan, per_core, slab, weights)
    busiest = max(
        cube * tiles, chunks * (to_a + to_b) * tiles, (drain + vector) * tiles, out * tiles, min(loads)
    )
    # Every tile pays for handing over between pipes, and the first and last overlap with nothing.
    return busiest + 60 * tiles + slab + weights + out + drain + vector


def _rows_outer(s: Shape, plan: Plan, machine: Machine) -> bool:
    """Whether keeping rows and passing all columns stages less than the other way round."""
    blocks = {d.name: ceil(d.extent / plan.outer[d.name]) for d in (*s.batch, *s.m, *s.n)}
    per_core = {**blocks, plan.parallel: ceil(blocks.get(plan.parallel, 1) / machine.cores)}
    columns = prod(plan.outer[d.name] for d in s.n) * prod(d.extent for d in s.k) * s.operand.bytes
    by_columns, by_rows = _loads(s, plan, per_core, _slab(s, plan.outer), columns)
    return by_rows < by_columns


def _loads(s: Shape, plan: Plan, blocks: dict[str, int], slab: float, weights: float) -> tuple[float, float]:
    """Cycles of staging on one core: with column tiles outside, and with row tiles outside."""
    batch, rows, columns = (prod(blocks[d.name] for d in dims) for dims in (s.batch, s.m, s.n))
    # The parallel dim is outermost in any case: its blocks stage both operands anew.
    around = blocks.get(plan.parallel, 1)
    if plan.parallel in {d.name for d in s.m}:
        rows //= around
    elif plan.parallel in {d.name for d in s.n}:
        columns //= around
    else:
        around = 1
    by_columns = columns * (weights + rows * slab)
    by_rows = rows * (slab + columns * weights)
    return around * batch * by_columns, around * batch * by_rows
