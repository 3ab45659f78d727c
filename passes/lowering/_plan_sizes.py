"""Sizes of the tiles of a plan whose operands pass through a staging memory, and what moving them takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from opc.machine.model import Machine
from opc.program.cost import transfer_cost
from passes.lowering._combining import Combining
from passes.lowering._plan import Plan, Shape, column_share, slab_bytes


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of one tile of a plan: rows and columns in whole blocks, elements that leave, depth of a step, and
    the blocks of depth that all steps take together.
    """

    m: int
    n: int
    elements: int
    deep: int
    steps: int
    depth: int
    columns: int  # bytes of columns that a step brings to the staging memory


@dataclass(frozen=True)
class Sizes:
    """Of one contraction on one machine."""

    s: Shape
    machine: Machine

    def _operands(self, plan: Plan) -> tuple[int, int]:
        """Bytes of the rows and of the columns that one tile needs."""
        s = self.s
        depth = prod(d.extent for d in s.k)
        sizes = {**plan.outer, **{d.name: d.extent for d in s.k}}
        columns = prod(plan.outer[d.name] for d in s.n) * depth * s.operand.bytes
        return slab_bytes(s, plan.outer), int(columns * column_share(s, sizes))

    def _walked(self, plan: Plan) -> dict[str, int]:
        """Tiles of every dim that the busiest core walks one after another."""
        walked = {}
        for d in (*self.s.batch, *self.s.m, *self.s.n):
            tile = plan.outer[d.name]
            step = (plan.band or tile) if d.name == plan.parallel else d.extent
            full, tail = divmod(d.extent, step)
            # A remainder is a phase of its own, which begins when every core is done with the others.
            rounds = ceil(full / self.machine.cores) if d.name == plan.parallel else full
            walked[d.name] = rounds * ceil(step / tile) + ceil(tail / tile)
        return walked

    def _tile(self, plan: Plan) -> Tile:
        s = self.s
        m, n = self._mn(plan.outer)
        elements = prod(plan.outer[d.name] for d in (*s.m, *s.n))
        steps = prod(ceil(d.extent / plan.chunk[d.name]) for d in s.k)
        deep, depth = prod(plan.chunk.values()), self._depth(plan.chunk)
        share = column_share(s, {**plan.outer, **plan.chunk})
        return Tile(m, n, elements, deep, steps, depth, int(n * deep * s.operand.bytes * share))

    def _depth(self, chunk: dict[str, int]) -> int:
        """Blocks of depth of a whole sum that is taken in such chunks."""
        size, dims = 1, list(self.s.k)
        while dims:
            d = dims.pop()
            if chunk[d.name] < d.extent:
                return prod(o.extent for o in dims) * blocks_of_depth(
                    d.extent, chunk[d.name], size, self._block[2]
                )
            size *= d.extent
        return ceil(size / self._block[2])

    def _mn(self, outer: dict[str, int]) -> tuple[int, int]:
        m = prod(outer[d.name] for d in self.s.m)
        n = prod(outer[d.name] for d in self.s.n)
        return round_up(m, self._block[0]), round_up(n, self._block[1])

    @property
    def _combining(self) -> Combining:
        return Combining(self.s.combined, self.s.operand, self.machine)

    @property
    def _block(self) -> tuple[int, int, int]:
        return self.machine.cube_shape[self.s.operand]

    def _capacity(self, role: str) -> int:
        return self.machine.role(role).capacity

    def _pipe(self, opcode_class: str, source: str, target: str) -> str:
        route = self.machine.route(opcode_class, self.machine.roles[source], self.machine.roles[target])
        return route.pipe if route else ""

    def _transfer(self, source: str, target: str, size: float) -> float:
        """Cycles until a copy of that many bytes is there."""
        route = self.machine.route("copy_in", self.machine.roles[source], self.machine.roles[target])
        return transfer_cost(route, size).latency if route else 0.0

    def _move(self, source: str, target: str, size: float) -> float:
        """Cycles that a copy of that many bytes holds its pipe."""
        route = self.machine.route("copy_in", self.machine.roles[source], self.machine.roles[target])
        return transfer_cost(route, size).occupancy if route else 0.0


def blocks_of_depth(extent: int, take: int, size: int, block: int) -> int:
    """Blocks of depth where a dim around ``size`` others is cut into chunks."""
    full, tail = divmod(extent, take)
    return full * ceil(take * size / block) + ceil(tail * size / block)


def round_up(n: int, to: int) -> int:
    return ceil(n / to) * to
