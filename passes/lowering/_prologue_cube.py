"""Work on an operand while it is loaded, its linear combinations by channel made by the cube.

A part of the box goes from the staging memory into the cube, times diagonal matrices of the factors, and comes back
to the vector unit as it drains. What is added is a product too: a row of ones times pieces of it that have the cube's
type and together all of its digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Access, Imm
from opc.tensor.blocks import Block, cut
from opc.tensor.ir import Call, Const, Expr, Op, Piece, Read
from passes.lowering._axes import Axis, Frame
from passes.lowering._diagonal import diagonal
from passes.lowering._emit import Tile, memory_access
from passes.lowering._expr import Evaluator, Value
from passes.lowering._prologue import _SLOTS, Cell, Prologue
from passes.tensor._cube_affine import Linear, replaced

_SHARE = 8  # of the left operand memory: the part that one part of a box takes
_CHANNELS = 64  # of a part, at most
_BUILT = 16  # blocks of a diagonal matrix that are built at once
# What pieces of a sum are multiplied by: together they hold all digits of an f32 between the smallest f16 and the
# largest times the first factor.
_SCALES = (4096.0, 1.0, 1.0 / 2048)
_MADE = "combined"
_B, _I, _J, _M, _N, _R = (Affine.var(name) for name in ("b_", "i_", "j_", "m_", "n_", "r_"))


def part_elements(machine: Machine, dtype: DType) -> int:
    """Elements of an operand that are combined at once."""
    return machine.role("operand_a").capacity // _SHARE // dtype.bytes


def channels_at_once(machine: Machine, dtype: DType, extent: int, matrices: int) -> int:
    """How many channels a part has: whole blocks, whose matrices take no more than half of the right operand memory."""
    side = machine.cube_shape[dtype][1]
    room = machine.role("operand_b").capacity // (2 * _SLOTS * matrices * side * dtype.bytes)
    fit = [t for t in range(side, min(_CHANNELS, room) + 1, side) if extent % t == 0]
    return max(fit, default=side)


def combined_op(op: Op, linear: Linear) -> Op:
    """The op with its combination read from where the cube left it."""
    piece = op.pieces[0]
    body = replaced(piece.body, linear.node, Read(_MADE, piece.index))
    return Op(op.outputs, (Piece(piece.dims, piece.index, body, piece.reduce, piece.guards),), line=op.line)


@dataclass(kw_only=True)
class CubePrologue(Prologue):
    """``ops`` is the op of ``combined_op``, ``linear`` what the cube makes for it, ``at_once`` channels at a time."""

    linear: Linear
    at_once: int
    matrices: list[str] = field(default_factory=list)  # staged, one for each term
    shift: str = ""  # staged pieces
    ones: str = ""  # a left operand: the scales of the pieces in every row
    blocks: dict[str, Block] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """Channels of a block."""
        return self.emit.machine.cube_shape[self.tensor.dtype][1]

    def prepare(self, steady: set[str], moving: set[str]) -> None:
        """See the base class; besides, all matrices, once."""
        super().prepare(steady, moving)
        line, self.emit.line = self.emit.line, self.ops[0].line
        channel, extent = self.linear.channel, self.ops[0].pieces[0].extents[self.linear.channel]
        frame = Frame((Axis(channel, ((channel, extent),)),), {channel: Affine()})
        ev = Evaluator(self.emit, frame, lambda read: self._load(read, frame, None))
        factors = [f for _, f in self.linear.terms if f is not None]
        pieces = _pieces(self.linear.shift, self.tensor.dtype) if self.linear.shift is not None else []
        mask = diagonal(self.emit, self.side)
        dtype, self.matrices = self.tensor.dtype, []
        if pieces:
            self.shift = self.emit.local("shift", dtype, [len(pieces), extent], "stage")
        for n, value in enumerate(ev.values([*factors, *pieces])):
            dense = self._dense(ev, value, frame)
            if n < len(factors):
                self.matrices.append(self._matrix(dense, extent, mask))
                continue
            at = Access(self.shift, (Affine((), n - len(factors)), _N))
            self.emit.emit("copy_out.copy", [("n_", extent)], [at], [Access(dense, (_N,))])
        if pieces:
            self._make_ones()
        self.emit.line = line

    def _dense(self, ev: Evaluator, value: Value, frame: Frame) -> str:
        """A value of every channel, in the type that is multiplied."""
        if (
            value.dtype is self.tensor.dtype
            and value.axes == frame.axes
            and isinstance(value.operand, Access)
        ):
            return value.operand.buffer
        name = ev.buffer(frame.axes, self.tensor.dtype)
        self.emit.emit("vector.copy", frame.axis_dims(frame.axes), [ev.at(name, frame.axes)], [value.operand])
        return name

    def _matrix(self, factors: str, extent: int, mask: str) -> str:
        """The blocks on the diagonal, in the staging memory."""
        side, dtype = self.side, self.tensor.dtype
        staged = self.emit.local("factors", dtype, [extent // side, side, side], "stage")
        for tile in self.emit.tiles("b_", extent // side, min(_BUILT, extent // side)):
            made = self.emit.local("factors", dtype, [tile.size, side, side], "vector")
            dims = [("b_", tile.size), ("i_", side), ("j_", side)]
            here, source = Access(made, (_B, _I, _J)), Access(factors, ((tile.base + _B) * side + _J,))
            self.emit.emit("vector.select", dims, [here], [Access(mask, (_I, _J)), source, Imm(0.0)])
            self.emit.emit("copy_out.copy", dims, [Access(staged, (tile.base + _B, _I, _J))], [here])
        return staged

    def _make_ones(self) -> None:
        """Rows of what pieces of the shift are multiplied by."""
        rows = self.room // self.tensor.dtype.bytes // self.side
        shape, dims = [rows, len(_SCALES)], [("m_", rows), ("r_", len(_SCALES))]
        made, staged, self.ones = (
            self.emit.local("ones", self.tensor.dtype, shape, role)
            for role in ("vector", "stage", "operand_a")
        )
        for n, scale in enumerate(_SCALES):
            self.emit.emit("vector.copy", dims[:1], [Access(made, (_M, Affine((), n)))], [Imm(scale)])
        for opcode, target, source in (
            ("copy_out.copy", staged, made),
            ("copy_in.copy", self.ones, staged),
        ):
            self.emit.emit(opcode, dims, [Access(target, (_M, _R))], [Access(source, (_M, _R))])

    # Parts of a box.

    def _bytes(self, sizes: list[int]) -> int:
        """See the base class: what counts is the left operand memory."""
        return prod(sizes) * self.tensor.dtype.bytes

    def _sliced(self, kept: list[Cell], edge: Cell | None) -> Iterator[dict[str, Tile]]:
        """Some blocks of channels at a time."""
        found = next(c for c in kept if c.dim == self.linear.channel)
        for tile in self.emit.tiles(found.dim, found.box.count, min(self.at_once, found.box.count)):
            yield {found.dim: tile}

    def _local(self, piece: Piece, blocks: dict[str, Block]) -> Piece:
        """See the base class."""
        self.blocks = blocks
        return super()._local(piece, blocks)

    def _bound(self, read: Read, frame: Frame, bound: dict[str, Value], outside: bool) -> Value:
        """See the base class."""
        return (
            self._combined(frame, outside)
            if read.tensor == _MADE
            else super()._bound(read, frame, bound, outside)
        )

    def _combined(self, frame: Frame, outside: bool) -> Value:
        """One part, out of the cube."""
        machine, dtype = self.emit.machine, self.tensor.dtype
        columns = next(a for a in frame.axes if a.name == self.linear.channel)
        rows = Axis("m_", tuple(d for a in frame.axes if a is not columns for d in a.dims))
        wide = machine.accumulators[dtype]
        sums = self.emit.local("combined", wide, [rows.size, columns.size], machine.accumulator_role(dtype))
        started = self.linear.shift is not None
        if started:
            self._add_shift(sums, rows.size, columns.size)
        values: dict[Read, str] = {}
        for n, (read, _) in enumerate(self.linear.terms):
            if read not in values:
                values[read] = self._operand(read, frame, rows, columns, outside)
            self._multiply(sums, values[read], self.matrices[n], rows.size, columns.size, started)
            started = True
        drained = self.emit.local("drained", wide, [a.size for a in frame.axes], "vector", shared=False)
        target, source = Evaluator.at(drained, frame.axes), Access(sums, (rows.flat(), columns.flat()))
        self.emit.emit("scale.drain", frame.axis_dims(frame.axes), [target], [source])
        return Value(target, frame.axes, wide, True)

    def _operand(self, read: Read, frame: Frame, rows: Axis, columns: Axis, outside: bool) -> str:
        """A part of a tensor as left operand."""
        moved = cut(Piece(self.ops[0].pieces[0].dims, (), read), self.blocks)
        assert moved is not None, "a box lies inside its operand"
        assert isinstance(moved.body, Read)
        forms = [frame.global_form(f) for f in moved.body.index]
        staged, operand = (
            self.emit.local("in", self.tensor.dtype, shape, role)
            for shape, role in (
                ([a.size for a in frame.axes], "stage"),
                ([rows.size, columns.size], "operand_a"),
            )
        )
        here = Access(staged, tuple(a.flat() for a in frame.axes))
        source = memory_access(self.tensors[read.tensor], forms)
        dims = frame.dims(frame.axes)
        self.emit.emit("copy_in.copy", dims, [here], [source], fill=0 if outside else None)
        self.emit.emit("copy_in.copy", dims, [Access(operand, (rows.flat(), columns.flat()))], [here])
        return operand

    def _add_shift(self, sums: str, rows: int, columns: int) -> None:
        """Begin with what is added."""
        count, first = len(_SCALES), self.blocks[self.linear.channel].base
        right = self.emit.local("shift", self.tensor.dtype, [count, columns], "operand_b")
        dims = [("r_", count), ("n_", columns)]
        self.emit.emit(
            "copy_in.copy", dims, [Access(right, (_R, _N))], [Access(self.shift, (_R, first + _N))]
        )
        self.emit.emit(
            "cube.mma", [("m_", rows), *dims[::-1]], [Access(sums, (_M, _N))],
            [Access(self.ones, (_M, _R)), Access(right, (_R, _N))], init=Affine(), chain=self._chain,
        )  # fmt: skip

    def _multiply(self, sums: str, left: str, matrix: str, rows: int, columns: int, started: bool) -> None:
        """Add one operand's channels times their factors."""
        side, count = self.side, columns // self.side
        base = self.blocks[self.linear.channel].base
        first = Affine(tuple((name, k // side) for name, k in base.terms), base.const // side)
        right = self.emit.local("factors", self.tensor.dtype, [count, side, side], "operand_b")
        dims = [("b_", count), ("i_", side), ("j_", side)]
        self.emit.emit(
            "copy_in.copy", dims, [Access(right, (_B, _I, _J))], [Access(matrix, (first + _B, _I, _J))]
        )
        self.emit.emit(
            "cube.mma", [("m_", rows), *dims], [Access(sums, (_M, _B * side + _J))],
            [Access(left, (_M, _B * side + _I)), Access(right, (_B, _I, _J))],
            init=None if started else Affine(), chain=self._chain,
        )  # fmt: skip

    @property
    def _chain(self) -> int:
        """Terms of a sum, zeros among them."""
        return len(_SCALES) + self.side * self.linear.products


def _pieces(shift: Expr, dtype: DType) -> list[Expr]:
    """What is left after each piece is taken off, over the next scale, in the cube's type. Only the last piece may be
    infinite: what is left of an infinity would be the opposite one.
    """
    found: list[Expr] = []
    rest, most = shift, dtype.largest
    for scale in _SCALES:
        piece: Expr = Call("mul", (rest, Const(1.0 / scale)))
        if scale != _SCALES[-1]:
            piece = Call("max", (Call("min", (piece, Const(most))), Const(-most)))
        found.append(Call(dtype.value, (piece,)))
        rest = Call("sub", (rest, Call("mul", (found[-1], Const(scale)))))
    return found
