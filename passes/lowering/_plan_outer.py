"""Plans of contractions that sum outer products: both operands are walked along axes slower than their own.

The sum is cut into chunks whose operands stay near; accumulators of a register block go through memory from
chunk to chunk. What is chosen: the chunk, the groups of rows and columns that are staged together, and what is
spread over cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, gcd, prod

from opc.machine.model import Machine
from opc.tensor.ir import Dim, Read
from passes.lowering._blocks import FINISH, START, Cut, Extents, Unit, blocks_of, cut
from passes.lowering._knobs import Knobs
from passes.lowering._outer import OuterShape
from passes.lowering._plan import balanced, divisors
from passes.lowering._plan_registers import FORK, PER_TASK, THREADS, TYPICAL

_LONG = 1024  # terms of a chunk beyond which nothing is gained
_SHORT = 32  # and below which accumulators move more than they sum
_TYPICAL_CHUNK = 256  # for which register blocks are chosen
_FEW = 16  # plans for one core that are tried on several
_TASKS = (2, 4, 8, 16)
_SHARE = 0.9  # of the nearest cache that what goes round may fill
_PIECE = 1.5  # cycles of copying a piece of a panel, beside its vectors
_APART = 2.5  # times as long does reading take where only a part of what lies together is wanted


@dataclass(frozen=True, slots=True)
class OuterPlan:
    """``chunk``: of every summed dim. ``rows``, ``columns``: of a group that is staged together. ``parallel``: the dim
    spread over cores ("": none), in pieces of ``task``.
    """

    chunk: dict[str, int]
    rows: int
    columns: int
    parallel: str
    task: int


def touched(read: Read, sizes: Mapping[str, int]) -> int:
    """Elements of the box that a read touches while dims walk over ``sizes``, thinned by common steps."""
    total = 1
    for form in read.index:
        steps = [(abs(c), sizes[n] - 1) for n, c in form.terms if sizes.get(n, 1) > 1]
        total *= sum(c * n for c, n in steps) // (gcd(*(c for c, _ in steps)) or 1) + 1
    return total


@dataclass(frozen=True)
class _Cost:
    shape: OuterShape
    machine: Machine
    knobs: Knobs

    @cached_property
    def limits(self) -> dict[str, int]:
        return {**TYPICAL, **self.machine.limits}

    @cached_property
    def width(self) -> int:
        """Columns of a panel."""
        return min(self.shape.column.extent, self.machine.cube_shape[self.shape.operand][1])

    @cached_property
    def height(self) -> int:
        """Rows of a register block at most."""
        most = self.machine.cube_shape[self.shape.operand][0]
        return min(most, self.knobs.rows or most)

    def sizes(self, plan: OuterPlan) -> dict[str, int]:
        """Extents of every dim in one task, summed ones in one chunk of it."""
        found = {d.name: d.extent for d in self.shape.every} | plan.chunk
        found |= {d.name: 1 for d in self.shape.batch}
        return {**found, plan.parallel: plan.task} if plan.parallel else found

    def box(self, plan: OuterPlan) -> int:
        """Positions of B in a chunk: of each a panel holds as many elements as it is wide."""
        return touched(self.shape.b, {**self.sizes(plan), self.shape.column.name: 1})

    def rows(self, plan: OuterPlan) -> int:
        """Elements of A that the rows of a group touch in a chunk."""
        sizes = self.sizes(plan)
        if self.shape.panels:
            sizes[self.shape.rows[-1].name] = plan.rows
        return touched(self.shape.a, sizes)

    def staged(self, plan: OuterPlan) -> int:
        """Bytes that are staged at a time."""
        return (self.rows(plan) + self.box(plan) * plan.columns) * self.shape.operand.bytes

    def of(self, plan: OuterPlan) -> float:
        """Cycles of all cores together, averaged over numbers of threads."""
        tasks = 1
        if plan.parallel:
            tasks = ceil(next(d.extent for d in self.shape.every if d.name == plan.parallel) / plan.task)
        total, cycles = sum(THREADS.values()), 0.0
        one = self._task(plan)
        for threads, weight in THREADS.items():
            cycles += weight / total * (threads * ceil(tasks / threads) * one + FORK * (threads > 1))
        return cycles + PER_TASK * tasks

    def _task(self, plan: OuterPlan) -> float:
        s, sizes, size = self.shape, self.sizes(plan), self.shape.operand.bytes
        chunks = prod(ceil(d.extent / plan.chunk[d.name]) for d in s.summed)
        chunks *= prod(d.extent for d in s.batch if d.name != plan.parallel)
        columns, others = sizes[s.column.name], prod(d.extent for d in s.others)
        rows, last = prod(sizes[d.name] for d in s.rows), s.rows[-1]
        blocks, box = ceil(columns / self.width), self.box(plan)
        work = others * self.work(plan, sizes)
        a = touched(s.a, sizes)
        stage = self._copied(a, self.height if s.panels else columns, sizes[last.name] == last.extent)
        stage += self._copied(box * columns, self.width, plan.columns == s.column.extent)
        groups = ceil(sizes[last.name] / plan.rows) if s.panels else 1
        stage += (groups - 1) * self._copied(box * columns, self.width, True)
        again = a * size / self.limits["l2_bytes_per_cycle"]
        again *= min(1.0, again / work)
        kept = s.accumulator.bytes * rows * columns * others
        sums = 2 * kept / self._rate(kept) if chunks > 1 else 0.0
        return chunks * (blocks * (work + again) + stage + sums)

    def work(self, plan: OuterPlan, sizes: Mapping[str, int]) -> float:
        """Cycles of the rows ``sizes`` with one block of columns and one window position, in one chunk."""
        unit = self._unit(self._near(plan))
        cycles, blocks = cut(self.extents(sizes), unit, _TYPICAL_CHUNK)
        terms, rows = prod(plan.chunk.values()), prod(sizes[d.name] for d in self.shape.rows)
        ends = START * blocks_of(blocks) + FINISH * rows * unit.vectors
        return (cycles - ends) * terms / _TYPICAL_CHUNK + 2 * ends

    def extents(self, sizes: Mapping[str, int]) -> Extents:
        """Row dims, for register blocks."""
        return tuple((d.name, sizes[d.name], self.shape.operand.bytes, 1, 0) for d in self.shape.rows)

    def blocks(self, sizes: Mapping[str, int]) -> Cut | None:
        """Register blocks of rows."""
        return cut(self.extents(sizes), self._unit(True), _TYPICAL_CHUNK)[1]

    def _near(self, plan: OuterPlan) -> bool:
        panels = self.box(plan) * self.width + prod(plan.chunk.values()) * self.shape.depth * self.height
        return panels * self.shape.operand.bytes <= _SHARE * self.limits["l1_bytes"]

    def _unit(self, near: bool) -> Unit:
        """The multipliers as the block model wants them; rows take their share of what the next cache gives."""
        limits, vector = self.limits, self.machine.vector_bytes
        far = limits["l2_bytes_per_cycle"] * self.width // (self.width + self.height) * 7 // 8
        lanes = vector // self.shape.accumulator.bytes
        return Unit(
            limits["fma_per_cycle"], limits["loads_per_cycle"], limits["fma_latency"],
            vector * limits["loads_per_cycle"] if near else max(1, far), self.height, ceil(self.width / lanes),
            vector, 1 << 20, limits["l1_ways"], limits["l2_bytes_per_cycle"],
        )  # fmt: skip

    def _copied(self, elements: int, width: int, together: bool) -> float:
        """Cycles of copying that many elements in pieces of ``width``, from afar if they lie there."""
        size = self.shape.operand.bytes
        near = elements / width * (_PIECE + ceil(width * size / self.machine.vector_bytes))
        return near + elements * size / self._rate(self._everything) * (1.0 if together else _APART)

    @cached_property
    def _everything(self) -> int:
        whole = {d.name: d.extent for d in self.shape.every}
        return sum(touched(r, whole) for r in (self.shape.a, self.shape.b)) * self.shape.operand.bytes

    def _rate(self, distance: float) -> float:
        limits = self.limits
        if distance <= limits["l2_bytes"] // 2:
            return 2 * limits["l2_bytes_per_cycle"]
        return limits[
            "l3_bytes_per_cycle" if distance <= limits["l3_core_bytes"] else "memory_bytes_per_cycle"
        ]


def blocks_of_rows(s: OuterShape, machine: Machine, knobs: Knobs, sizes: Mapping[str, int]) -> Cut | None:
    """Register blocks of rows of these extents."""
    return _Cost(s, machine, knobs).blocks(sizes)


def plan_outer(s: OuterShape, machine: Machine, knobs: Knobs) -> OuterPlan:
    """The cheapest plan by the model; of plans that do not fit the smallest, if there is no other."""
    cost = _Cost(s, machine, knobs)
    plans = list(_plans(s, cost))
    fit = [p for p in plans if cost.staged(p) <= machine.role("stage").capacity]
    if not fit:
        return min(plans, key=cost.staged)
    best = sorted(fit, key=cost.of)[:_FEW]
    return min((q for p in best for q in _spread(s, p)), key=cost.of)


def _plans(s: OuterShape, cost: _Cost) -> Iterator[OuterPlan]:
    """Chunks and groups, on one core."""
    blocks = ceil(s.column.extent / cost.width)
    groups = _groups(s.rows[-1].extent) if s.panels else {s.rows[-1].extent}
    for rows in sorted(groups):
        for columns in sorted({min(balanced(blocks, n) * cost.width, s.column.extent) for n in (1, 4, 16)}):
            for chunk in _chunks(s.summed):
                yield OuterPlan(chunk, rows, columns, "", 1)


def _spread(s: OuterShape, plan: OuterPlan) -> Iterator[OuterPlan]:
    """What may be spread over cores, and in pieces of how much: whole groups."""
    if s.batch:
        yield replace(plan, parallel=s.batch[0].name)
        return
    yield plan
    dims = [(s.column, plan.columns), *([(s.rows[-1], plan.rows)] if s.panels else [])]
    for d, unit in dims:
        groups = ceil(d.extent / unit)
        for count in sorted({ceil(groups / ceil(groups / n)) for n in _TASKS if n <= groups}):
            yield replace(plan, parallel=d.name, task=unit * ceil(groups / count))


def _groups(extent: int) -> set[int]:
    """Rows that are staged together: whole parts, even ones where there are few."""
    found = {n for n in divisors(extent) if n >= _SHORT}
    return (found if len(found) > 2 else found | {balanced(extent, n) for n in (48, 96, 192)}) or {extent}


def _chunks(summed: tuple[Dim, ...]) -> list[dict[str, int]]:
    """One dim cut, those inside it whole, those outside it one at a time."""
    found: dict[tuple[int, ...], None] = {}
    for at, d in enumerate(summed):
        inner = prod(x.extent for x in summed[at + 1 :])
        for size in _parts(d.extent, inner):
            found[(*(1 for _ in summed[:at]), size, *(x.extent for x in summed[at + 1 :]))] = None
    least = min(_SHORT, prod(d.extent for d in summed))
    sizes = [f for f in found if least <= prod(f) <= max(_LONG, least)]
    return [{d.name: n for d, n in zip(summed, f, strict=True)} for f in sizes]


def _parts(extent: int, inner: int) -> set[int]:
    """Whole parts, and even ones where few of those make chunks of a useful size."""
    whole = set(divisors(extent))
    useful = [n for n in whole if _SHORT <= n * inner <= _LONG]
    return whole if len(useful) > 2 else whole | {balanced(extent, n) for n in (64, 128, 192, 256, 384)}
