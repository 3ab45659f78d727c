"""Sums over the rows of a product's tile, made by the cube from the tile itself.

The tile goes back to the staging memory as it is stored, and from there into both operand memories: a sum of values
is a row of ones times the tile, a sum of products the diagonal of one tile, transposed, times the other. Only blocks on
the diagonal are multiplied. They add up in the accumulator memory while rows go by; the vector unit picks the diagonal
once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access, Imm
from opc.tensor.ir import Dim, Op
from passes.lowering._axes import Axis, Frame
from passes.lowering._diagonal import diagonal
from passes.lowering._emit import Tile
from passes.lowering._expr import Evaluator, Value, no_load
from passes.lowering._plan import Summed
from passes.lowering._statistics import Statistics, Tiles
from passes.tensor._cube_sums import factors

_BLOCKS = 4  # of columns whose diagonals are picked at once
_B, _I, _J, _M = (Affine.var(name) for name in ("b_", "i_", "j_", "m_"))


def summed(ops: tuple[Op, ...]) -> Summed | None:
    """What the planner needs to know of such sums."""
    found = [[r.tensor for r in factors(op)] for op in ops]
    left, right = {f[0] for f in found if len(f) > 1}, {f[-1] for f in found}
    return Summed(len(left), len(right), any(len(f) == 1 for f in found), len(found)) if found else None


@dataclass
class CubeSums(Statistics):
    """``columns`` is the size of a tile's columns, ``rows`` the most rows that come at once."""

    columns: int = 1
    rows: int = 1
    ones: str = ""
    mask: str = ""

    @property
    def used(self) -> frozenset[str]:
        """Values of the tile that the cube takes, as they are stored."""
        return frozenset(r.tensor for op in self.ops for r in factors(op))

    @property
    def side(self) -> int:
        """Columns of a block."""
        return max(self.emit.machine.cube_shape[self._operand][:2])

    @property
    def _operand(self) -> DType:
        return self.tensors[next(iter(self.used))].dtype

    @property
    def _dim(self) -> Dim:
        """The dim of the columns."""
        return max(self.shape.n, key=lambda d: d.extent)

    def _allocate(self) -> None:
        """Accumulators of all columns that the loops inside visit, tile by tile and block by block."""
        width, around = self.side, self.around[self._dim.name].size
        blocks = [-(-around // self.columns), -(-min(self.columns, around) // width)]
        accumulator = self.emit.machine.accumulator_role(self._operand)
        for op in self.ops:
            rows = width if len(factors(op)) > 1 else 1
            shape = [*blocks, rows, width]
            self.sums[op.name] = self.emit.local(
                f"{op.name}_acc", self._type(op.outputs[0]), shape, accumulator
            )

    def prepare(self) -> None:
        """What a core needs for all its sums: a row of ones among the left operands, and which elements to pick."""
        if any(len(factors(op)) == 1 for op in self.ops):
            self._make_ones()
        if any(len(factors(op)) > 1 for op in self.ops):
            self.mask = diagonal(self.emit, self.side)

    def _make_ones(self) -> None:
        """A row of ones among the left operands."""
        dtype, dims = self._operand, [("m_", self.rows)]
        made, staged, self.ones = (
            self.emit.local("ones", dtype, [1, self.rows], role) for role in ("vector", "stage", "operand_a")
        )
        first, second, third = (Access(name, (Affine(), _M)) for name in (made, staged, self.ones))
        self.emit.emit("vector.copy", dims, [first], [Imm(1.0)])
        self.emit.emit("copy_out.copy", dims, [second], [first])
        self.emit.emit("copy_in.copy", dims, [third], [second])

    def take(self, frame: Frame, values: Mapping[str, Value]) -> None:
        """Add the rows of the tile at hand, whose ``values`` are stored ones."""
        rows, columns = frame.axes[0].size, frame.axes[1].size
        staged = {name: self._staged(frame, values[name]) for name in sorted(self.used)}
        self.multiply(staged, rows, columns)

    def multiply(self, staged: Mapping[str, str], rows: int, columns: int) -> None:
        """Add up rows that lie in the staging memory."""
        right = {name: self._operands(staged[name], rows, columns, False) for name in self._sides(-1)}
        left = {name: self._operands(staged[name], rows, columns, True) for name in self._sides(0)}
        for op in self.ops:
            self.emit.line = op.line
            read = [r.tensor for r in factors(op)]
            for start, width, count in self._segments(columns):
                dims = [("b_", count), ("j_", width), ("m_", rows)]
                b = _B + start // self.side
                first = Access(self.ones, (Affine(), _M))
                if len(read) > 1:
                    dims.insert(1, ("i_", width))
                    first = Access(left[read[0]], (b, _I, _M))
                self._multiply(op, b, dims, first, Access(right[read[-1]], (b, _M, _J)))

    def _sides(self, side: int) -> list[str]:
        """Tensors that are left (0) or right (-1) factors; ones are left of a single one."""
        return sorted({f[side].tensor for op in self.ops if len(f := factors(op)) > 1 or side})

    def _multiply(
        self, op: Op, block: Affine, dims: list[tuple[str, int]], first: Access, second: Access
    ) -> None:
        d = self._dim
        tile = Affine() if d.name in self.fixed else self.tiles[d.name].order
        around = [d for d in self.shape.m if d.name not in self.fixed]
        row = _I if len(factors(op)) > 1 else Affine()
        self.emit.emit(
            "cube.mma", dims, [Access(self.sums[op.name], (tile, block, row, _J))], [first, second],
            init=sum((self.tiles[d.name].order for d in around), self.first),
            chain=prod(d.extent for d in self.shape.m),
        )  # fmt: skip

    def _staged(self, frame: Frame, value: Value) -> str:
        """The tile in the staging memory, its columns counted in blocks."""
        rows, columns = (a.size for a in frame.axes[:2])
        assert isinstance(value.operand, Access)
        shape = [rows, -(-columns // self.side), self.side]
        name = self.emit.local("summed", self._operand, shape, "stage")
        for start, width, count in self._segments(columns):
            here = {"n_": _B * self.side + _J + start}
            source = Access(value.operand.buffer, tuple(f.substitute(here) for f in value.operand.index))
            self.emit.emit(
                "copy_out.copy", [("m_", rows), ("b_", count), ("j_", width)],
                [Access(name, (_M, _B + start // self.side, _J))], [source],
            )  # fmt: skip
        return name

    def _operands(self, staged: str, rows: int, columns: int, left: bool) -> str:
        """The tile in blocks of columns, those of a left operand transposed."""
        role, sides = ("operand_a", [self.side, rows]) if left else ("operand_b", [rows, self.side])
        name = self.emit.local("summed", self._operand, [-(-columns // self.side), *sides], role)
        for start, width, count in self._segments(columns):
            block = _B + start // self.side
            inner = (_J, _M) if left else (_M, _J)
            self.emit.emit(
                "copy_in.copy", [("b_", count), ("j_", width), ("m_", rows)],
                [Access(name, (block, *inner))], [Access(staged, (_M, block, _J))],
            )  # fmt: skip
        return name

    def _segments(self, columns: int) -> Iterator[tuple[int, int, int]]:
        """(first column, columns of a block, blocks): whole blocks, then what is left."""
        whole, rest = divmod(columns, self.side)
        if whole:
            yield 0, self.side, whole
        if rest:
            yield whole * self.side, rest, 1

    # When all rows are done.

    def end(self) -> None:
        """Store diagonals and sums, some blocks of columns at a time."""
        d, around = self._dim, self.around[self._dim.name]
        for tile in self.emit.tiles(d.name, around.size, min(self.columns, around.size)):
            for start, width, count in self._segments(tile.size):
                for part in self.emit.tiles("b_", count, min(count, _BLOCKS)):
                    first = part.base + start // self.side
                    at = {
                        **self.around,
                        d.name: Tile(around.base + tile.base + first * self.side, 1, Affine()),
                    }
                    for op in self.ops:
                        self.emit.line = op.line
                        value = self._picked(op, (tile.order, first), part.size, width)
                        self._keep(op, value, part.size * width, at)

    def _picked(self, op: Op, first: tuple[Affine, Affine], count: int, width: int) -> str:
        """The sums of some blocks, next to the vector unit."""
        dtype, product = self._type(op.outputs[0]), len(factors(op)) > 1
        total = self.emit.local("sum", dtype, [count * width], "vector")
        tile, block = first
        dims = [("b_", count), ("j_", width)]
        target = Access(total, (_B * width + _J,))
        if not product:
            source = Access(self.sums[op.name], (tile, block + _B, Affine(), _J))
            self.emit.emit("scale.drain", dims, [target], [source])
            return total
        square = self.emit.local("blocks", dtype, [count, width, width], "vector")
        here = Access(square, (_B, _I, _J))
        dims.insert(1, ("i_", width))
        source = Access(self.sums[op.name], (tile, block + _B, _I, _J))
        self.emit.emit("scale.drain", dims, [here], [source])
        self.emit.emit("vector.select", dims, [here], [Access(self.mask, (_I, _J)), here, Imm(0.0)])
        chain = max(width, prod(d.extent for d in self.shape.m))
        self.emit.emit("vector.reduce_sum", dims, [target], [here], init=Affine(), chain=chain)
        return total

    def _keep(self, op: Op, total: str, count: int, tiles: Tiles) -> None:
        """Store the sums of ``count`` columns, or this iteration's part of them."""
        axes = (Axis(self._dim.name, ((self._dim.name, count),)),)
        frame = Frame(axes, {name: t.base for name, t in tiles.items()})
        out = op.outputs[0]
        value = Value(Evaluator.at(total, axes), axes, self._type(out), True)
        self._store(Evaluator(self.emit, frame, no_load), op, out, value)
