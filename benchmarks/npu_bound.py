"""The least cycles that an operator can take on one core: counted from the operator and the machine file alone.

Per pipe, for one core's share of the images: cube blocks; the input with its halo once and the weights once from
memory; fractals of both operands once per use by the largest output tile that fits half of the accumulator memory;
the accumulators over the drain path; the repeats that the epilogue needs, and what normalises the input once for each
of its elements; the result once to memory. Under the numerics licence the epilogue is the folded one: batch norm's
factor is in the weights, and where the machine has a way into its accumulators, that way, once for every element,
and the drain's own conversion and ReLU are all that is left. Moments may then be sums of values and squares: where
the machine has a way back to its cube they are either the vector unit's pass over the accumulators, or one block of
the cube for the squares and one for the values of each block of results, which come back once and into both operand
memories. The input's ``x * A + B`` may be made by the cube too, as two products with blocks of A on their diagonals
and one with B, from which it comes back as it drains. The bound is that of the best of these ways. Latencies and the
heads and tails of instructions count as nothing. The pipe with the most work is the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.problems.npu import NpuProblem
    from opc.dtypes import DType
    from opc.machine.model import Machine, Route

# The way of a tile through the pipes: class of the instruction, and the roles of the spaces it moves between.
_LOAD = ("copy_in", "memory", "stage")
_FEED_A = ("copy_in", "stage", "operand_a")
_FEED_B = ("copy_in", "stage", "operand_b")
_CUBE = ("cube", "operand_a", "accumulator")
_DRAIN = ("scale", "accumulator", "vector")
_VECTOR = ("vector", "vector", "vector")
_STORE = ("copy_out", "vector", "memory")
_START = ("copy_in", "vector", "accumulator")  # of what a sum starts from
_HAND = ("copy_out", "vector", "stage")  # of an input that is worked on, on the pipe of stores
_WAY = (_LOAD, _FEED_A, _FEED_B, _START, _CUBE, _DRAIN, _VECTOR, _STORE)
_MATRICES = 3  # that make x * A + B: A in two parts of the cube's type, and B
Steps = dict[tuple[str, str, str], float]


@dataclass(frozen=True)
class Bound:
    """Cycles per pipe of one core; ``cube``: those spent multiplying; ``tile``: its blocks of rows and columns.

    ``edges``: what the pipes before the busiest one do to the first tile, and those after it to the last one. A tile
    comes in by steps of its sum, as deep as half of the operand memories hold.
    """

    pipes: dict[str, float]
    cube: float
    tile: tuple[int, int]
    edges: float

    @property
    def busiest(self) -> str:
        """The pipe that bounds."""
        return max(self.pipes, key=lambda p: self.pipes[p])

    @property
    def cycles(self) -> float:
        """What the busiest pipe needs."""
        return max(self.pipes.values())

    @property
    def attainable(self) -> float:
        """The bound with one tile's fill and drain."""
        return self.cycles + self.edges


def bound(problem: NpuProblem, machine: Machine, dtype: DType, licensed: bool = False) -> Bound:
    """The operator's least work on one core, with its share of the images."""
    plain = _Operator(problem, machine, dtype, licensed)
    if not licensed or not plain.returns():
        return plain.bound()
    combined = (False, True) if plain.combines() else (False,)
    ways = (
        _Operator(problem, machine, dtype, licensed, multiplied, way)
        for multiplied in (False, True)
        for way in combined
    )
    return min((way.bound() for way in ways), key=lambda b: b.cycles)


class _Operator:
    """One core's share of a convolution with an epilogue. ``multiplied``: the cube makes the sums over its result;
    ``combined``: it scales and shifts the input.
    """

    def __init__(
        self,
        problem: NpuProblem,
        machine: Machine,
        dtype: DType,
        licensed: bool,
        multiplied: bool = False,
        combined: bool = False,
    ) -> None:
        self.problem, self.conv, self.machine, self.dtype = problem, problem.conv, machine, dtype
        self.licensed, self.multiplied, self.combined = licensed, multiplied, combined
        c = self.conv
        # Cores may share an image, so that the busiest one's share is no less than this.
        self.images = problem.batch / machine.cores
        self.m, self.n, self.k = c.out**2, c.filters, c.channels * c.size**2
        self.wide = machine.accumulators[dtype]
        self.block = machine.cube_shape[dtype]
        m0, n0, k0 = self.block
        self.rows, self.columns, self.depth = ceil(self.m / m0), ceil(self.n / n0), ceil(self.k / k0)

    def bound(self) -> Bound:
        """All pipes, whole and at the edges."""
        tile = min(self._tiles(), key=lambda t: (sum(self._feeds(t)), -prod(t)))
        to_a, to_b = self._feeds(tile)
        cube = self.rows * self.columns * self.depth * self.machine.cube_block
        image = {_FEED_A: to_a, _FEED_B: to_b, _CUBE: cube, **self._finish(self.m * self.n)}
        for step, cycles in self._returned().items():
            image[step] += cycles
        whole = {step: self.images * cycles for step, cycles in image.items()}
        given = int(self.images * self._input())
        whole[_LOAD] = self._move(_LOAD, given + self.k * self.n)
        for step, cycles in self._begin(given).items():
            whole[step] += cycles
        pipes: dict[str, float] = {}
        for step in _WAY:
            pipes[self._pipe(step)] = pipes.get(self._pipe(step), 0.0) + whole[step]
        return Bound(pipes, self.images * cube, tile, self._edges(tile, max(pipes, key=lambda p: pipes[p])))

    def _edges(self, tile: tuple[int, int], busiest: str) -> float:
        """What the other pipes do to the first tile before the busiest one, and to the last one after it."""
        m0, n0, k0 = self.block
        room = min(self._fractals("operand_a") // tile[0], self._fractals("operand_b") // tile[1])
        deep = min(max(1, room), self.depth)
        rows, columns = min(tile[0] * m0, self.m), min(tile[1] * n0, self.n)
        step: Steps = {
            _LOAD: self._move(_LOAD, (rows + columns) * deep * k0),
            _FEED_A: self._move(_FEED_A, rows * deep * k0),
            _FEED_B: self._move(_FEED_B, columns * deep * k0),
            _CUBE: prod(tile) * deep * self.machine.cube_block,
            **self._finish(rows * columns),
        }
        way = [s for s in _WAY if s is not _START]  # a sum starts while its operands are loaded
        own = [self._pipe(s) == busiest for s in way]
        if not any(own[: way.index(_CUBE) + 1]):
            step[_CUBE] *= self.depth / deep  # all of a tile's sum comes before its way out
        return sum(step[s] for s, mine in zip(way, own, strict=True) if not mine)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        """Blocks of rows and columns that fit half of the accumulator memory, as wide as the rows allow."""
        m0, n0, _ = self.block
        room = self.machine.role("accumulator").capacity // 2 // (m0 * n0 * self.wide.bytes)
        for rows in range(1, min(self.rows, room) + 1):
            yield rows, min(self.columns, room // rows)

    def _feeds(self, tile: tuple[int, int]) -> tuple[float, float]:
        """Cycles that bring one image's operands to the cube: each once for every tile of the other's."""
        m0, n0, k0 = self.block
        rows, columns = ceil(self.rows / tile[0]), ceil(self.columns / tile[1])
        a = self._move(_FEED_A, self.rows * self.depth * m0 * k0) * self._window(tile[0] * m0)
        b = self._move(_FEED_B, self.columns * self.depth * n0 * k0)
        return a * columns, b * rows

    def _window(self, rows: int) -> float:
        """How many times longer a tile's rows take where the filter is a window: the machine's rate by its stride."""
        from opc.program.cost import Window, slower

        c = self.conv
        route = self.machine.route(_FEED_A[0], *(self.machine.roles[r] for r in _FEED_A[1:]))
        if c.size == 1 or route is None or route.gather is None:
            return 1.0
        window = Window(c.stride, min(c.out, rows), ceil(min(rows, self.m) / c.out))
        return slower(window, route.gather, self.machine.role("operand_a").fractal)

    def _fractals(self, role: str) -> int:
        """Blocks that fit half of an operand memory."""
        m0, _, k0 = self.block
        return self.machine.role(role).capacity // 2 // (m0 * k0 * self.dtype.bytes)

    def _input(self) -> int:
        """Elements of an image that the filters touch."""
        c = self.conv
        step = min(c.size, c.stride)
        side = min(c.image, c.image if step == c.stride else c.out * step)
        return c.channels * side**2

    def _finish(self, elements: int) -> Steps:
        """What leaves the cube: drained, through the epilogue, to memory."""
        work = [
            step
            for step in self.problem.epilogue(self.wide, self.dtype, self.licensed, self._drains())
            if not self.multiplied or step[0] not in ("reduce_moments", "copy")
        ]
        vector = sum(
            self._cycles("vector", fn, ("vector",) * (1 + n), kind, elements) for fn, n, kind in work
        )
        return {
            _START: 0.0 if work or self.multiplied else self._move(_START, elements, self.wide),
            _DRAIN: self._move(_DRAIN, elements, self.wide),
            _VECTOR: vector,
            _STORE: self._move(_STORE, elements),
        }

    def returns(self) -> bool:
        """Whether the cube may sum up the result: it has statistics, and the machine a way back to the cube."""
        source, target = (self.machine.roles.get(r, "") for r in _HAND[1:])
        returns = self.problem.roles > 1 and "convert" in self.machine.scale_forms
        return returns and self.machine.route(_HAND[0], source, target) is not None

    def _returned(self) -> Steps:
        """What sums on the cube take of one image's result: a block each for squares and values."""
        if not self.multiplied:
            return {}
        elements, blocks = self.m * self.n, ceil(self.m / self.block[2]) * self.columns
        return {
            _FEED_A: self._move(_FEED_A, elements),
            _FEED_B: self._move(_FEED_B, elements),
            _CUBE: 2 * blocks * self.machine.cube_block,
            _STORE: self._move(_HAND, elements),
        }

    def _drains(self) -> bool:
        """Whether sums may start from a value, and leave the accumulators as they leave the operator."""
        source, target = (self.machine.roles[r] for r in _START[1:])
        return (
            self.machine.route(_START[0], source, target) is not None
            and {"convert", "relu"} <= self.machine.scale_forms
        )

    def combines(self) -> bool:
        """Whether the cube may scale and shift the input: blocks of channels, which leave it as they are wanted."""
        whole = self.conv.channels % self.block[1] == 0 and self.block[1] == self.block[2]
        return whole and {"convert", "relu"} <= self.machine.scale_forms

    def _begin(self, elements: int) -> Steps:
        """What is done to the input: through the vector unit or the cube, and out of the vector unit's memory."""
        if self.combined:
            blocks = elements / (self.block[0] * self.block[1])
            return {
                _FEED_A: self._move(_FEED_A, elements),
                _CUBE: _MATRICES * blocks * self.machine.cube_block,
                _DRAIN: self._move(_DRAIN, elements, self.wide),
                _STORE: self._move(_HAND, elements),
            }
        vector = sum(
            self._cycles("vector", fn, ("vector",) * (1 + sources), kind, elements)
            for fn, sources, kind in self.problem.prologue(self.wide, self.dtype, self.licensed)
        )
        return {_VECTOR: vector, _STORE: self._move(_HAND, elements) if vector else 0.0}

    def _move(self, step: tuple[str, str, str], elements: int, dtype: DType | None = None) -> float:
        if self._route(step) is None:
            return 0.0  # a machine without the way goes round by others
        return self._cycles(step[0], "copy", (step[2], step[1]), dtype or self.dtype, elements)

    def _cycles(
        self, opcode_class: str, op: str, roles: tuple[str, ...], dtype: DType, elements: int
    ) -> float:
        """Occupancy of one dense instruction: destination, then sources."""
        from opc.program.cost import Shape, Stream, cost_of

        target, *sources = (Stream(self.machine.roles[r], dtype, (dtype.bytes,)) for r in roles)
        return cost_of(
            Shape(opcode_class, op, (elements,), (target,), tuple(sources)), self.machine
        ).occupancy

    def _pipe(self, step: tuple[str, str, str]) -> str:
        route = self._route(step)
        return route.pipe if route else self.machine.vector_pipe

    def _route(self, step: tuple[str, str, str]) -> Route | None:
        kind, *roles = step
        source, target = (self.machine.roles.get(r, "") for r in roles)
        return self.machine.route(kind, source, target)
