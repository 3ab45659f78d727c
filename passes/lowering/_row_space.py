"""Tile sizes of non-contraction groups where the vector unit has a memory of its own: several plans to price."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil, inf, prod

from opc.affine import Affine
from opc.machine.model import Machine
from opc.tensor.ir import Call, Dim, Op, Read, Tensor, reads, walk
from passes.lowering._axes import Axis, Frame
from passes.lowering._row_plan import RowPlan, lane_dim, memory_order, windows_of
from passes.lowering._row_sums import operand_bytes, row_sums
from passes.lowering._stage import staged_bytes
from passes.lowering._together import Together, together

# Of the memory, how much a plan may take by an estimate that counts every temporary, and every buffer once. The first
# always fits with two slots for each buffer.
_SHARES = (0.5, 1.0, 2.0, 0.25)


_MORE, _TRIES = 3, 4  # times as many rows, and numbers of them, that are tried in a second round


def space_plans(ops: tuple[Op, ...], tensors: dict[str, Tensor], machine: Machine) -> Iterator[RowPlan]:
    """Different plans; the first is always possible."""
    common = set.intersection(*({d.name for d in op.pieces[0].dims} for op in ops))
    shared = tuple(d for d in ops[0].pieces[0].dims if d.name in common)
    windows = frozenset(w for op in ops for w in windows_of(op))
    found = None if windows else together(ops, common)
    seen: list[tuple[dict[str, int], bool, bool]] = []
    tilings = [_Tiling(ops, tensors, machine, shared, windows, None)]
    if found is not None:
        rows = _Tiling(found.ops, tensors, machine, shared, windows, found)
        summed = row_sums(found, common, rows.steps[-1], tensors, machine) if len(found.rounds) == 1 else ()
        tilings += [rows, replace(rows, summed=summed)] if summed else [rows]
    for share, tiling in product(_SHARES, tilings):
        for spread, size in tiling.spreads():
            made = tiling.within(int(machine.role("vector").capacity * share), spread, size)
            key = made.sizes, tiling.rows is not None, bool(tiling.summed)
            if key not in seen:
                seen.append(key)
                yield made


def cheapest(plans: Iterable[tuple[RowPlan, float]]) -> tuple[RowPlan, float]:
    """The plan of the lowest price, the earlier of equals; one that splits a group only where none keeps it."""
    every = list(plans)
    kept = [p for p in every if not p[0].spilled and p[1] < inf] or every[:1]
    return min(kept, key=lambda p: p[1])


def larger(plan: RowPlan) -> Iterator[RowPlan]:
    """The plan with more rows in a block, without a remainder where there is such a number."""
    walked = plan.together.walked if plan.together is not None else ()
    cut = [d for d in plan.in_order(walked) if 1 < plan.size(d) < d.extent]
    for d in cut[:1]:
        sizes = {ceil(d.extent / n) for n in range(1, d.extent // plan.size(d) + 1)}
        near = sorted(n for n in sizes if plan.size(d) < n <= _MORE * plan.size(d))
        even = [n for n in near if d.extent % n == 0]
        for n in (even or near)[:_TRIES]:
            yield replace(plan, sizes={**plan.sizes, d.name: n})


@dataclass(frozen=True)
class _Tiling:
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    machine: Machine
    shared: tuple[Dim, ...]
    windows: frozenset[str]
    rows: Together | None
    summed: tuple[Op, ...] = ()  # by the cube

    @cached_property
    def every(self) -> dict[str, Dim]:
        """All dims by name."""
        return {d.name: d for op in self.ops for d in (*op.pieces[0].dims, *op.pieces[0].reduce)}

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """Dims by their steps in memory."""
        return memory_order(self.ops, self.tensors, self.every)

    def spreads(self) -> list[tuple[str, int]]:
        """Dims to spread over the cores, and how much each core takes; first the outermost that feeds most cores, as
        splitting inner dims shortens every transfer.
        """
        steps, cores = self.steps, self.machine.cores
        outside = sorted(self.shared, key=lambda d: (-min(d.extent, cores), steps.index(d.name)))
        found = [(d.name, _share(d.extent, cores)) for d in outside]
        last = next((d for d in outside if d.name == steps[-1]), None)
        route = self.machine.route("copy_in", self.machine.roles["memory"], self.machine.roles["vector"])
        if last is not None and route is not None:
            # Not less than a burst of the narrowest type.
            narrow = min(
                (self.tensors[r.tensor].dtype.bytes for op in self.ops for r in reads(op)), default=1
            )
            least = route.burst // narrow
            found.append((last.name, min(last.extent, max(least, _share(last.extent, cores)))))
        return [f for f in found if self.every[f[0]].extent > 1] or found[:1] or [("", 0)]

    def within(self, budget: int, spread: str, share: int) -> RowPlan:
        """The largest tiles of so many bytes: what lies outermost in memory is cut first."""
        sizes = {n: (1 if n in self.windows else d.extent) for n, d in self.every.items()}
        names = {d.name for d in self.shared}
        steps = self.steps
        sizes |= {spread: share} if spread else {}
        if self.summed:  # sums of one row of results at a time
            sizes |= {d.name: 1 for d in self.shared if d.name != steps[-1]}
        spilled = False
        for name in self._cuts(sizes, budget, names, steps):
            # An intermediate must be whole in the dims that the group does not share.
            spilled = spilled or (self.rows is None and len(self.ops) > 1 and name not in names)
            sizes[name] = (sizes[name] + 1) // 2
        lanes = frozenset(n for n in (lane_dim(op, self.tensors, self.windows) for op in self.ops) if n)
        if self.rows is not None:
            lanes = frozenset(steps[-1:])
            sizes |= {d.name: _even(d.extent, sizes[d.name]) for d in self.rows.walked}
        band = share if spread and sizes[spread] < share else 0
        return RowPlan(
            self.shared, sizes, spread, lanes, self.windows, True, spilled, order=steps, band=band,
            together=self.rows, summed=self.summed,
        )  # fmt: skip

    def _cuts(
        self, sizes: dict[str, int], budget: int, shared: set[str], steps: tuple[str, ...]
    ) -> Iterator[str]:
        """Dims to halve, until a tile fits."""
        reduced = {d.name for op in self.ops for d in op.pieces[0].reduce}
        order = sorted(steps, key=lambda n: (n not in shared, n in reduced))
        if self.rows is not None:
            walked = {d.name for d in self.rows.walked}
            order = sorted(steps, key=lambda n: n not in walked)
        while self._bytes(sizes) > budget or not self._multiplied(sizes):
            name = next((n for n in order if sizes[n] > 1), None)
            if name is None:
                return
            yield name

    def _multiplied(self, sizes: dict[str, int]) -> bool:
        """Whether the operand memories have room for what the cube sums up."""
        if self.rows is None or not self.summed:
            return True
        rows = prod(min(sizes[d.name], d.extent) for d in self.rows.walked)
        room = min(self.machine.role(r).capacity for r in ("operand_a", "operand_b"))
        column = self.steps[-1]
        size = min(sizes[column], self.every[column].extent)
        return operand_bytes(self.summed, rows, size, self.machine, self.tensors) <= room

    def _bytes(self, sizes: dict[str, int]) -> int:
        """On-chip bytes of one tile: staged inputs, live temporaries, kept intermediates."""
        total = 0
        for dims, staged, depth in self._needs:
            whole = {
                d.name: d.extent if d.name in self.windows else min(sizes[d.name], d.extent) for d in dims
            }
            frame = Frame(tuple(Axis(n, ((n, s),)) for n, s in whole.items()), {n: Affine() for n in whole})
            total += sum(staged_bytes(r, self.tensors[r.tensor], frame) for r in staged)
            total += 4 * prod(min(sizes[d.name], d.extent) for d in dims) * depth
        return total

    @cached_property
    def _needs(self) -> list[tuple[tuple[Dim, ...], list[Read], int]]:
        """By op its dims, what it reads of memory, and how many temporaries it needs at most."""
        produced = {t.name for op in self.ops for t in op.outputs}
        found = []
        for op in (op for op in self.ops if op not in self.summed):
            piece = op.pieces[0]
            nodes = list(walk(piece.body))
            staged = {n for n in nodes if isinstance(n, Read) and n.tensor not in produced}
            depth = 1 + min(3, sum(isinstance(n, Call) for n in nodes))
            found.append(((*piece.dims, *piece.reduce), sorted(staged, key=str), depth))
        return found


def _even(extent: int, size: int) -> int:
    """Blocks of about that size, as equal as can be."""
    return ceil(extent / ceil(extent / size))


def _share(extent: int, cores: int) -> int:
    """What one core takes: an even share, or somewhat more where that leaves no remainder to wait for."""
    share = ceil(extent / cores)
    return next((t for t in range(share, share + max(1, share // 4) + 1) if extent % t == 0), share)
