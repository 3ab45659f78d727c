"""Plans for machines whose operands pass through a staging memory: tiles must fit every space on chip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.tensor.ir import Dim
from passes.lowering._plan import Plan, Shape, balanced, divisors, parallel_dim, slab_bytes

# Half of every on-chip buffer is left to the second slot of double buffering.
_SHARE = 2


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
    limits = replace(limits, vector=result_room(s, machine))
    best: tuple[float, Plan] | None = None
    for outer in _tilings(s):
        chunk = _chunk(s, outer, limits, machine)
        if chunk is None or not _fits(s, outer, limits, machine):
            continue
        spread = Plan(parallel_dim(s, outer, machine.cores), outer, chunk)
        for band in _bands(s, spread, machine):
            plan = replace(spread, band=band)
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


def _bands(s: Shape, plan: Plan, machine: Machine) -> list[int]:
    """Rows of one core where it has several tiles of them: as few as spread over all cores, or some more that
    leave no remainder. Cores that spread columns share no operand anyway.
    """
    rows = next((d for d in s.m if d.name == plan.parallel), None)
    tiles = ceil(rows.extent / plan.outer[rows.name]) if rows else 1
    each = ceil(tiles / machine.cores)
    if each == 1:
        return [0]
    even = next(t for t in divisors(tiles) if t >= each)
    return [plan.outer[plan.parallel] * n for n in dict.fromkeys((each, even))]


def _walked(s: Shape, plan: Plan, machine: Machine) -> dict[str, int]:
    """Tiles of every dim that the busiest core walks one after another."""
    walked = {}
    for d in (*s.batch, *s.m, *s.n):
        tile = plan.outer[d.name]
        step = (plan.band or tile) if d.name == plan.parallel else d.extent
        full, tail = divmod(d.extent, step)
        # A remainder is a phase of its own, which begins when every core is done with the others.
        rounds = ceil(full / machine.cores) if d.name == plan.parallel else full
        walked[d.name] = rounds * ceil(step / tile) + ceil(tail / tile)
    return walked


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
    if len(m) == 1:
        # Nothing beside the rows to choose from: sizes without a remainder are worth a look as well.
        sizes = sorted({*sizes, *(t for t in divisors(inner.extent) if 16 <= t <= 512)})
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
    m0 = machine.cube_shape[s.operand][0]
    least = min(outer[s.m[-1].name], m0) if s.m else 1
    return (
        m * n * s.accumulator.bytes <= limits.accumulator and least * n * 4 * s.temporaries <= limits.vector
    )


def result_room(s: Shape, machine: Machine) -> int:
    """Bytes next to the vector unit for what is drained at once; an operand that is made there takes as much."""
    return machine.role("vector").capacity // (2 * _SHARE if s.made else _SHARE)


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
    reduce = machine.vector_costs.get("reduce", default)
    vector += s.reductions * (m * n * 4 / machine.vector_bytes * reduce.slope + reduce.head + reduce.tail)
    out = m * n * size / rate("copy_out", "vector", "memory")
    load = rate("copy_in", "memory", "stage")
    slab = slab_bytes(s, plan.outer) / load
    k = prod(d.extent for d in s.k)
    weights = n * k * size / load
    per_core = _walked(s, plan, machine)
    tiles = prod(per_core.values())
    loads = _loads(s, plan, per_core, slab, weights)
    made = _made(s, plan, machine) * _loads(s, plan, per_core, 1.0, 0.0)[plan.rows_outer]
    busiest = max(
        cube * tiles, chunks * (to_a + to_b) * tiles, (drain + vector) * tiles + made, out * tiles,
        loads[plan.rows_outer],
    )  # fmt: skip
    columns = prod(per_core[d.name] for d in s.n)
    if s.made and plan.rows_outer and columns > 1:
        # The work on rows waits for nobody, but what follows it for the first product.
        busiest += tiles / columns * (cube + chunks * max(to_a, to_b))
    # Every tile pays for handing over between pipes, and the first and last overlap with nothing.
    return busiest + 60 * tiles + slab + weights + out + drain + vector + _made(s, plan, machine)


def _made(s: Shape, plan: Plan, machine: Machine) -> float:
    """Vector cycles of making one slab; again for every tile of columns if it cannot stay in the staging memory."""
    slab = slab_bytes(s, plan.outer)
    again = 1
    if slab > machine.role("stage").capacity // 4:
        again = prod(ceil(d.extent / plan.outer[d.name]) for d in s.n)
    return s.made * slab / s.operand.bytes * again


def _rows_outer(s: Shape, plan: Plan, machine: Machine) -> bool:
    """Whether keeping rows and passing all columns stages less than the other way round."""
    per_core = _walked(s, plan, machine)
    columns = prod(plan.outer[d.name] for d in s.n) * prod(d.extent for d in s.k) * s.operand.bytes
    # Bytes that must be made cost as much as bytes that take as long to load.
    load = machine.route("copy_in", machine.roles["memory"], machine.roles["stage"])
    made = _made(s, plan, machine) * (load.bandwidth if load is not None else 0.0)
    by_columns, by_rows = _loads(s, plan, per_core, slab_bytes(s, plan.outer) + made, columns)
    return by_rows < by_columns


def _loads(s: Shape, plan: Plan, blocks: dict[str, int], slab: float, weights: float) -> tuple[float, float]:
    """Cycles of staging on one core: with column tiles outside, and with row tiles outside."""
    batch, rows, columns = (prod(blocks[d.name] for d in dims) for dims in (s.batch, s.m, s.n))
    # The parallel dim is outermost in any case: its blocks stage both operands anew.
    around = 1 if plan.band else blocks.get(plan.parallel, 1)
    if plan.parallel in {d.name for d in s.m}:
        rows //= around
    elif plan.parallel in {d.name for d in s.n}:
        columns //= around
    else:
        around = 1
    by_columns = columns * (weights + rows * slab)
    by_rows = rows * (slab + columns * weights)
    return around * batch * by_columns, around * batch * by_rows
