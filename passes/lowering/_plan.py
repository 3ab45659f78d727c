"""What a plan of a contraction is, and what the planners of all kinds of machine share.

Three planners exist: `_plan_registers` (the cube reads memory and accumulates in registers),
`_plan_tiles` (it is fed from memory tile by tile) and `_plan_spaces` (operands pass through a staging
memory, and tiles must fit operand, accumulator and vector spaces).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from opc.dtypes import DType
from opc.tensor.ir import Dim
from passes.lowering._knobs import Knobs


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
    ``rows_outer``: row tiles go round outside column tiles, so that rows are staged once. ``band``: how much of
    the parallel dim one core walks tile by tile, so that what it staged serves them all (0: each tile is spread).
    """

    parallel: str
    outer: dict[str, int]
    inner: dict[str, int]
    chunk: dict[str, int]
    columns: int = 0
    rows_outer: bool = False
    band: int = 0


def balanced(extent: int, limit: int) -> int:
    """Largest tile <= limit that splits the extent into equal-as-possible blocks."""
    return ceil(extent / ceil(extent / max(1, min(limit, extent))))


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


# Enough parallel blocks for a many-core host without making the halo of each slab costly.
TASKS = 12


def slab_rows(s: Shape, block: int, budget: int, tasks: int, fixed: int | None = None) -> dict[str, int]:
    """Tile of the two innermost M dims: the largest slab within the budget that leaves enough blocks, or of
    ``fixed`` rows.
    """
    q = s.m[-1]
    if len(s.m) == 1:
        rows = ceil(q.extent / (tasks * block))
        while rows > 1 and slab_bytes(s, {q.name: rows * block}) > budget:
            rows = ceil(rows / 2)
        return {q.name: min(q.extent, block * max(1, rows))}
    p = s.m[-2]
    width = q.extent
    while width > block and slab_bytes(s, {q.name: width}) > budget:
        width = block * max(1, ceil(width / 2 / block))
    if fixed:
        return {q.name: width, p.name: min(fixed, p.extent)}
    others = prod(d.extent for d in s.m[:-2]) * prod(d.extent for d in s.batch)
    fitting = [t for t in divisors(p.extent) if slab_bytes(s, {q.name: width, p.name: t}) <= budget] or [1]
    spread = [t for t in fitting if p.extent // t * others >= tasks]
    # Fewer blocks than wanted are better than slabs of one row, which would be mostly halo.
    tile = max(spread) if spread else max([t for t in fitting if t * 4 <= p.extent] or [fitting[0]])
    return {q.name: width, p.name: tile}


def by_columns(s: Shape, rows: Plan, capacity: int, knobs: Knobs) -> Plan | None:
    """The plan that keeps columns stationary, where re-reading the weights for every slab would cost more."""
    if len(s.n) < 2 or not s.m or s.batch or s.n[-2].extent < 2 or knobs.order == "rows":
        return None
    blocks = s.n[-2].extent
    outer = {**rows.outer, **slab_rows(s, rows.inner[s.m[-1].name], capacity, 1, knobs.slab)}
    per = max(1, blocks // TASKS)
    if knobs.order is None and not _columns_pay(s, rows.outer, outer, blocks // per, capacity):
        return None
    outer[s.n[-2].name] = per
    return Plan(s.n[-2].name, outer, rows.inner, rows.chunk, per)


def _columns_pay(
    s: Shape, by_rows: dict[str, int], by_columns: dict[str, int], tasks: int, capacity: int
) -> bool:
    weights = s.operand.bytes * prod(d.extent for d in (*s.k, *s.n))
    slabs, fewer = (prod(ceil(d.extent / o[d.name]) for d in s.m) for o in (by_rows, by_columns))
    # Weights within reach of a core are re-read at no cost; half as much again is what a guess may be off.
    return weights > 2 * capacity and weights * slabs > 1.5 * fewer * (
        weights + slab_bytes(s, by_columns) * tasks
    )


def slab_bytes(s: Shape, tile: dict[str, int]) -> int:
    """Bytes of operand A that the slab of a tile of M touches."""
    size = s.operand.bytes * s.slab_channel
    for d in s.m:
        stride, extra = s.reach[d.name]
        t = tile.get(d.name, 1)
        size *= (t - 1) * stride + 1 + extra
    return size


def parallel_dim(s: Shape, outer: dict[str, int], cores: int) -> str:
    """The dim whose blocks spread best over the cores; batch, then M, then N on ties."""
    best, best_use = "", 0.0
    for d in (*s.batch, *s.m, *s.n):
        blocks = ceil(d.extent / outer[d.name])
        use = min(blocks / (cores * ceil(blocks / cores)), 1.0) * min(blocks, cores)
        if use > best_use * 1.05:
            best, best_use = d.name, use
    return best
