"""Columns that arrive at run time, packed for tiles block by block in the core's own memory instead of all before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

from opc.affine import Affine
from opc.program.ir import Access
from opc.tensor.ir import Dim, Op, Read, Tensor
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._plan import Shape

_COPY = 2  # dims of one copy: columns, and what the cube wants side by side of each


@dataclass(frozen=True)
class NearColumns:
    """Operand B of a contraction and what packs it. ``outer``: axes that a dim of the contraction indexes alone, by
    that dim. What one value of each picks is packed at once.
    """

    op: Op
    b: Read
    packed: Tensor
    source: Tensor
    outer: Mapping[str, int]

    @property
    def axes(self) -> list[int]:
        """Those that are packed at once, slowest first."""
        return [axis for axis in self.packed.memory_order if axis not in self.outer.values()]

    @property
    def bytes(self) -> int:
        """Of what is packed at once."""
        return prod(self.packed.shape[axis] for axis in self.axes) * self.packed.dtype.bytes

    @property
    def total(self) -> int:
        """Bytes of everything that is packed."""
        return prod(self.packed.shape) * self.packed.dtype.bytes

    @property
    def moved(self) -> int:
        """Bytes that it is packed from."""
        return prod(self.source.shape) * self.source.dtype.bytes

    def pack(self, emit: Emitter, tensors: Mapping[str, Tensor], tiles: Mapping[str, Tile]) -> str:
        """Pack what the tiles of the outer dims pick; returns the buffer's name."""
        (piece,) = self.op.pieces
        body = piece.body
        assert isinstance(body, Read)
        name = {axis: next(iter(f.names)) for axis, f in enumerate(piece.index)}
        extents = dict(piece.extents)
        buffer = emit.local(
            f"{self.packed.name}_near", self.packed.dtype, [self.packed.shape[a] for a in self.axes], "stage"
        )
        place: dict[str, Affine | int] = {name[axis]: tiles[dim].base for dim, axis in self.outer.items()}
        *around, columns, pair = [name[axis] for axis in self.axes]
        with ExitStack() as loops:
            for n in around:
                place[n] = loops.enter_context(emit.loop(f"{n}_o", extents[n]))
            inside = [(n, extents[n]) for n in (columns, pair)]
            index = [Affine.var(name[axis]).substitute(place) for axis in self.axes]
            moved = memory_access(tensors[self.source.name], [f.substitute(place) for f in body.index])
            emit.emit("copy_in.copy", inside, [Access(buffer, tuple(index))], [moved], fill=body.fill)
        return buffer

    def at(self, buffer: str, forms: Mapping[str, Affine | int]) -> Access:
        """Where columns are that have been packed."""
        return Access(buffer, tuple(self.b.index[axis].substitute(forms) for axis in self.axes))


def near_columns(op: Op | None, b: Read, s: Shape, tensors: Mapping[str, Tensor]) -> NearColumns | None:
    """How columns that ``op`` packs at run time can be packed near; None if they cannot, or would be all at once."""
    if op is None:
        return None
    (piece,) = op.pieces
    assert isinstance(piece.body, Read)
    packed, source = tensors[b.tensor], tensors[piece.body.tensor]
    dims = {d.name for d in (*s.batch, *s.n[:-1])}
    used = [name for f in b.index for name in f.names]
    outer = {
        name: axis
        for axis, f in enumerate(b.index)
        for name in f.names & dims
        if f == Affine.var(name) and used.count(name) == 1
    }
    found = NearColumns(op, b, packed, source, outer)
    block = len(s.n) < 2 or s.n[-2].name in outer
    if not outer or not block or packed.dtype is not source.dtype or len(found.axes) <= _COPY:
        return None
    return found


def as_packed(k: tuple[Dim, ...], b: Read, tensor: Tensor) -> tuple[Dim, ...]:
    """K dims in the order in which operand B lies in memory."""

    def place(d: Dim) -> int:
        return min(
            (i for i, a in enumerate(tensor.memory_order) if b.index[a].coefficient(d.name)), default=0
        )

    return tuple(sorted(k, key=place))
