"""Plans for machines whose operands pass through a staging memory: tiles must fit every space on chip.

A plan is priced pipe by pipe with the costs that the schedulers and the simulator use. The pipe with the most work
decides; what the others do to a first and a last tile is added, because nothing overlaps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.program.cost import Window, cube_cost, slower
from passes.lowering._finish import Finish
from passes.lowering._plan import Plan, Shape, balanced, divisors, parallel_dim
from passes.lowering._plan_sizes import Sizes, Tile, blocks_of_depth, round_up
from passes.lowering._tilings import bands, tilings

# Of every operand and accumulator memory a tile takes a part, and leaves as much to the next tile.
_SLOTS = 2
# Cycles that a tile costs the busiest pipe beyond its work: flags, and waiting for its neighbours.
_HAND_OVER = 20
_STEP = 8  # instructions that a step takes, each of them dispatched, beside much else
_WORK = 1e-3  # what a cycle of a pipe is worth that holds nothing up
_HANDS = 4  # flags between the pipes that a step passes
_SUMMED = 4  # the part of an operand memory that holds rows to sum up, once


def plan_spaces(s: Shape, machine: Machine, finish: Finish) -> Plan:
    """Plan for a machine with operand spaces; MachineError E0630 if nothing fits."""
    best: tuple[float, Plan] | None = None
    pricer = _Pricer(s, machine, finish)
    for outer in tilings(s):
        chunk = pricer.chunk(outer)
        if chunk is None or not pricer.fits(outer) or (s.stored and _cut_windows(s, outer) > 1):
            continue
        spread = Plan(parallel_dim(s, outer, machine.cores), outer, chunk)
        for band in bands(s, spread, machine):
            for plan in pricer.staged(replace(spread, band=band)):
                cost = pricer.cost(plan)
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


def result_room(s: Shape, machine: Machine) -> int:
    """Bytes next to the vector unit for what is drained at once, beside statistics or an operand that is made there."""
    return machine.role("vector").capacity // (4 if s.made else 2 if s.reductions or s.summed else 1)


def rows_at_once(s: Shape, machine: Machine, finish: Finish, columns: int) -> int:
    """Rows of a tile of so many columns that leave it at once: what the vector unit's memory holds, and, where the
    cube sums them up, a part of the operand memories.
    """
    rows = finish.rows(columns, result_room(s, machine))
    if s.summed is None:
        return rows
    m0, n0, k0 = machine.cube_shape[s.operand]
    each = round_up(columns, max(m0, n0)) * s.operand.bytes
    room = min(machine.role(r).capacity for r in ("operand_a", "operand_b")) // _SUMMED
    fit = room // (each * max(s.summed.left, s.summed.right))
    return min(rows, fit // k0 * k0)


def _cut_windows(s: Shape, outer: dict[str, int]) -> int:
    """How many dims of rows have tiles that reach into each other."""
    return sum(s.reach[d.name][1] > 0 and outer[d.name] < d.extent for d in s.m)


@dataclass(frozen=True)
class _Pricer(Sizes):
    """Capacities and costs of plans of one contraction."""

    finish: Finish

    def fits(self, outer: dict[str, int]) -> bool:
        """Whether a tile fits the accumulator memory, and a few of its rows the vector unit's."""
        wide = [outer[d.name] for d in self.s.m if outer[d.name] > 1]
        # A tile that does not leave at once does so by its outermost rows.
        least = prod(wide[1:]) if wide[1:] else min([*wide, self._block[0]])
        return self._accumulated(outer, 1) and self._rows_at_once(outer) >= least

    def _accumulated(self, outer: dict[str, int], tiles: int) -> bool:
        """Whether a tile has room in the accumulator memory, beside sums over so many tiles of columns."""
        m, n = self._mn(outer)
        taken = m * n * self.s.accumulator.bytes * _SLOTS + self._sums(n) * tiles
        return taken + self._made("accumulator") <= self._capacity("accumulator")

    def _rows_at_once(self, outer: dict[str, int]) -> int:
        """Rows of a tile that leave it at once."""
        return rows_at_once(self.s, self.machine, self.finish, prod(outer[d.name] for d in self.s.n))

    def _made(self, role: str) -> int:
        """Bytes of a memory that parts of an operand take which the cube makes."""
        return self._combining.room(role)

    def _sums(self, columns: int) -> int:
        """Bytes of the accumulators of what the cube sums up, over so many columns."""
        side = max(self._block[:2])
        results = self.s.summed.results if self.s.summed is not None else 0
        return round_up(columns, side) * side * self.s.accumulator.bytes * results

    def _handed(self, outer: dict[str, int]) -> tuple[int, int, int]:
        """Bytes of rows that the cube sums up: in both operand memories, and in the one before them."""
        s = self.s.summed
        if s is None:
            return 0, 0, 0
        m, n = self._mn(outer)
        rows = min(m, self._rows_at_once(outer))
        each, ones = rows * n * self.s.operand.bytes, s.ones * rows * self.s.operand.bytes
        left, right = (each * count * _SLOTS for count in (s.left, s.right))
        return left + ones * self._block[0], right, max(left, right) + ones

    def chunk(self, outer: dict[str, int]) -> dict[str, int] | None:
        """Innermost K dims whole while they fit the operand spaces, the next one split; None if nothing fits."""
        s = self.s
        m, n = self._mn(outer)
        k0 = self.machine.cube_shape[s.operand][2]
        a, b = (
            (self._capacity(role) - taken - self._made(role)) // _SLOTS // s.operand.bytes
            for role, taken in zip(("operand_a", "operand_b"), self._handed(outer), strict=False)
        )
        room = min(a // m, b // n) // k0 * k0
        if room < k0:
            return None
        chunk = {d.name: 1 for d in s.k}
        size = 1
        for d in reversed(s.k):
            fit = [t for t in divisors(d.extent) if size * t <= room]
            whole = fit[-1] == d.extent
            # A ragged split beats a tiny divisor: peel the remainder instead.
            ragged = balanced(d.extent, room // size // k0 * k0 or 1)
            take = fit[-1] if whole or fit[-1] * 4 > room // size else ragged
            if size > 1 and not whole:
                # What is no multiple of a block pays for whole ones in every chunk; a remainder has buffers of its own.
                least = [t for t in range(1, room // size + 1) if t + d.extent % t <= room // size]
                take = min(least, key=lambda t: (blocks_of_depth(d.extent, t, size, k0), -t))
            chunk[d.name] = take
            size *= take
            if take < d.extent:
                break
        return chunk

    def staged(self, plan: Plan) -> Iterator[Plan]:
        """Ways to bring operands to the staging memory: which goes round outside, and which comes whole."""
        found = False
        for rows_outer in (False, True):
            for whole in (("rows", "columns"), ("rows",), ("columns",), ()):
                candidate = replace(plan, rows_outer=rows_outer, whole=frozenset(whole))
                if self._staged_bytes(candidate) <= self._capacity("stage") and self._summable(candidate):
                    found = True
                    yield candidate
        if not found:
            yield replace(plan, whole=frozenset())

    def _summable(self, plan: Plan) -> bool:
        """Whether sums over the rows have room: for all columns, where rows go round outside."""
        tiles = prod(ceil(d.extent / plan.outer[d.name]) for d in self.s.n) if plan.rows_outer else 1
        return self._accumulated(plan.outer, tiles)

    def cost(self, plan: Plan) -> float:
        """Cycles of the busiest core: of the pipe with the most work, and of the others at the first and last tile."""
        tile = self._tile(plan)
        walked = self._walked(plan)
        tiles = prod(walked.values())
        blocks = (tile.m // self._block[0]) * (tile.n // self._block[1]) * tile.depth / tile.steps
        deep = tile.depth * self._block[2] // tile.steps
        size = self.s.operand.bytes
        feed = self._move("stage", "operand_a", tile.m * deep * size * self._window(plan))
        feed += self._move("stage", "operand_b", tile.n * deep * size)
        product = cube_cost(blocks, self.machine)
        # Operands of a step come into the slots of the last step but one.
        handed_on = feed + product.latency + 2 * _HANDS * self.machine.sync_cycles
        cube = max(product.occupancy, handed_on / _SLOTS)
        loads, rows, alone = self._loads(plan, walked, tile)
        parts = ceil(prod(plan.outer[d.name] for d in self.s.m) / self._rows_at_once(plan.outer))
        last = self.finish.cycles(ceil(tile.elements / parts))
        out = {pipe: parts * cycles for pipe, cycles in last.items()}
        made = self.s.made / size * rows
        waits = self._waits(plan, tile, cube, rows)
        pipes: dict[str, float] = {}
        for pipe, cycles in (
            (self._pipe("copy_in", "memory", "stage"), loads + ("columns" not in plan.whole) * waits),
            (self._pipe("copy_in", "stage", "operand_a"), feed * tile.steps * tiles + waits),
            (self.machine.cube_pipe, cube * tile.steps * tiles + waits),
            (self.machine.vector_pipe, made),
            *self._combining.work(rows / size),
            *((pipe, cycles * tiles) for pipe, cycles in out.items()),
        ):
            pipes[pipe] = pipes.get(pipe, 0.0) + cycles
        first = self._first(plan, tile)
        edges = {self._pipe("copy_in", "memory", "stage"): first, self.machine.cube_pipe: cube}
        edges[self._pipe("copy_in", "stage", "operand_a")] = feed
        if made:
            return self._overlapped(pipes, edges, out) + (_HAND_OVER + _STEP * tile.steps) * tiles
        # Of an operand that comes whole, all steps are left when the last of it is there; results wait for all of them.
        late = ("columns" if plan.rows_outer else "rows") in plan.whole
        found = [
            cycles
            + sum(c for p, c in (*self._edges(edges, pipe, late, tile.steps), *last.items()) if p != pipe)
            for pipe, cycles in pipes.items()
        ]
        return max(found) + _HAND_OVER * tiles + alone

    def _edges(
        self, edges: dict[str, float], busy: str, late: bool, steps: int
    ) -> Iterable[tuple[str, float]]:
        """What other pipes do before and after a busy one works without a pause."""
        whole = busy not in edges or (late and busy == self._pipe("copy_in", "memory", "stage"))
        cube = self.machine.cube_pipe
        return {**edges, cube: edges[cube] * (steps if whole else 1)}.items()

    def _overlapped(self, pipes: dict[str, float], edges: dict[str, float], out: dict[str, float]) -> float:
        """Cycles where the vector unit makes rows and finishes tiles, mixed so that it has something to do but at the
        very begin. Of plans as fast the one with less work is better.
        """
        load, vector = self._pipe("copy_in", "memory", "stage"), self.machine.vector_pipe
        found = {
            p: cycles + sum(c for q, c in (*edges.items(), *out.items()) if q != p)
            for p, cycles in pipes.items()
        }
        found[vector] = pipes[vector] + edges[load] + sum(c for p, c in out.items() if p != vector)
        return max(found.values()) + sum(pipes.values()) * _WORK

    def _waits(self, plan: Plan, tile: Tile, cube: float, rows: float) -> float:
        """Cycles that the cube waits for rows that are made: for the first slice of them, or, where one tile's sums
        take less time than its rows, for what these take longer.
        """
        made = self.s.made / self.s.operand.bytes * min(rows, self._operands(plan)[0])
        if "rows" not in plan.whole:
            return made / tile.steps
        channels = self.s.k[-1]
        return max(made * plan.chunk[channels.name] / channels.extent, made - cube * tile.steps)

    def _window(self, plan: Plan) -> float:
        """How many times longer rows take because they are picked by a sliding window."""
        rows = [d for d in self.s.m if plan.outer[d.name] > 1]
        route = self.machine.route("copy_in", self.machine.roles["stage"], self.machine.roles["operand_a"])
        if not rows or route is None or route.gather is None or not any(e for _, e in self.s.reach.values()):
            return 1.0  # what is staged is dense
        stride, extra = self.s.reach[rows[-1].name]
        window = Window(
            stride if extra else 1,
            plan.outer[rows[-1].name],
            plan.outer[rows[-2].name] if len(rows) > 1 else 1,
        )
        return slower(window, route.gather, self.machine.role("operand_a").fractal)

    def _first(self, plan: Plan, tile: Tile) -> float:
        """What has to be loaded before the first product."""
        rows, columns = self._operands(plan)
        size = self.s.operand.bytes
        whole = rows if "rows" in plan.whole else tile.m * tile.deep * size
        whole += columns if "columns" in plan.whole else tile.columns
        return self._transfer("memory", "stage", whole)

    def _loads(self, plan: Plan, walked: dict[str, int], tile: Tile) -> tuple[float, float, float]:
        """Cycles of staging on one core, the bytes of rows among it, and cycles during which nothing else goes on: a
        whole operand waits behind the steps of the other one, and these behind it.
        """
        s = self.s
        batch, rows, columns = (prod(walked[d.name] for d in dims) for dims in (s.batch, s.m, s.n))
        slab, weights = self._operands(plan)
        # The parallel dim is outermost in any case: its blocks stage both operands anew.
        around = 1 if plan.band else walked.get(plan.parallel, 1)
        if plan.parallel in {d.name for d in s.m}:
            rows //= around
        elif plan.parallel in {d.name for d in s.n}:
            columns //= around
        else:
            around = 1
        each = rows * columns
        often, again = (rows, each) if plan.rows_outer else (each, columns)
        load_rows, load_columns = self._move("memory", "stage", slab), self._move("memory", "stage", weights)
        single = len(plan.whole) == 1
        if "rows" not in plan.whole:
            slab, often = tile.m * tile.deep * tile.steps * s.operand.bytes, each
            load_rows = tile.steps * self._stream(slab / tile.steps, "operand_a", single)
        if "columns" not in plan.whole:
            size = min(tile.columns, weights / tile.steps)
            again, load_columns = each, tile.steps * self._stream(size, "operand_b", single)
        alone = 0.0
        if single:
            alone = often * load_rows if "rows" in plan.whole else again * load_columns
        runs = around * batch
        # The first load of all is counted as the fill.
        alone = max(0.0, runs * alone - (load_rows if "rows" in plan.whole else load_columns))
        return runs * (often * load_rows + again * load_columns), runs * often * slab, alone

    def _stream(self, size: float, to: str, single: bool) -> float:
        """Cycles of one of many small loads: its slots are free again when its data came, and went on where no loads of
        the other operand fill that time.
        """
        on = self._transfer("memory", "stage", size)
        if single:
            on += self._move("stage", to, size) + _HANDS * self.machine.sync_cycles
        return max(self._move("memory", "stage", size), on / _SLOTS)

    def _staged_bytes(self, plan: Plan) -> int:
        """Staging memory: what several tiles bring in turn has two slots."""
        tile, walked, s = self._tile(plan), self._walked(plan), self.s
        rows, columns = (prod(walked[d.name] for d in dims) for dims in (s.m, s.n))
        batch = prod(walked[d.name] for d in s.batch)
        slab, weights = self._operands(plan)
        lives_rows = batch * rows * (1 if plan.rows_outer else columns)
        lives_columns = batch * columns * (rows if plan.rows_outer else 1)
        if "rows" not in plan.whole:
            slab, lives_rows = tile.m * tile.deep * s.operand.bytes, _SLOTS
        if "columns" not in plan.whole:
            weights, lives_columns = tile.columns, _SLOTS
        handed = self._handed(plan.outer)[2] + self._made("stage")
        return handed + slab * min(_SLOTS, lives_rows) + weights * min(_SLOTS, lives_columns)
