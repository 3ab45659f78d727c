"""Operand A of a tiled contraction: where its rows are read, and the copies that put them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opc.affine import Affine
from opc.program.ir import Access
from opc.tensor.ir import Read, Tensor
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.lowering._plan import Shape
from passes.lowering._plan_tiles import TilePlan, pair_dim
from passes.lowering._row_layout import RowLayout, copied, copy_dims, copy_source, in_place

Tiles = Mapping[str, Tile]


@dataclass(frozen=True, slots=True)
class Source:
    """A buffer's index forms over the contraction's dims; M dims count from ``base``."""

    buffer: str
    index: tuple[Affine, ...]
    base: Mapping[str, Affine]


@dataclass(frozen=True, slots=True)
class TileRows:
    """Emits the copies of one contraction's operand A. ``room``: elements of K that a tile row holds."""

    emit: Emitter
    shape: Shape
    read: Read
    tensor: Tensor
    plan: TilePlan
    room: int

    def in_place(self) -> Source:
        """The rows as they lie in memory."""
        return self._source(self.tensor.name, in_place(self.read, self.tensor), {})

    def copy_everything(self) -> Source:
        """Copy A in a parallel loop of its own, spread along the axis that is longest; where rows are turned, not
        along the one that is contiguous in memory: blocks of both ends are turned at once.
        """
        layout = self.plan.layout
        shape = [p.count for p in layout.parts]
        name = self.emit.workspace(f"{self.tensor.name}_rows", self.tensor.dtype, shape)
        spread = max(range(max(1, len(shape) - 1)), key=lambda i: shape[i])
        near = self.tensor.memory_order[-1]
        outside = [i for i, p in enumerate(layout.parts[:-1]) if p.axis != near]
        if layout.parts[-1].axis != near and outside:
            spread = next(i for i in outside if 2 * shape[i] >= max(shape[o] for o in outside))
        index, dims = copy_source(layout, self._base({})), copy_dims(layout)
        with self.emit.loop(dims[spread][0], shape[spread], parallel=True) as var:
            at: dict[str, Affine | int] = {dims[spread][0]: var}
            inside = [Affine.var(d).substitute(at) for d, _ in dims]
            rest = [d for i, d in enumerate(dims) if i != spread]
            self._copy(name, inside, rest, [f.substitute(at) for f in index])
        return self._source(name, layout, {})

    def copy_slab(self, tiles: Tiles) -> Source:
        """Copy what one slab touches into the stage space."""
        plan, s = self.plan, self.shape
        extents = {d.name: tiles[d.name].size for d in s.m} | {d.name: d.extent for d in s.k}
        summed = {d.name for d in s.k}
        layout = copied(
            self.read, self.tensor, extents, summed, self.room, plan.rows.inner, plan.split, pair_dim(s)
        )
        shape = [p.count for p in layout.parts]
        name = self.emit.local(f"{self.tensor.name}_stage", self.tensor.dtype, shape, "stage")
        dims = copy_dims(layout)
        index = copy_source(layout, self._base(tiles))
        self._copy(name, [Affine.var(d) for d, _ in dims], dims, index)
        return self._source(name, layout, {d.name: tiles[d.name].base for d in s.m})

    def _base(self, tiles: Tiles) -> tuple[Affine, ...]:
        """Where A's axes start for these tiles."""
        s = self.shape
        at: dict[str, Affine | int] = {
            d.name: tiles[d.name].base if d.name in tiles else 0 for d in (*s.batch, *s.m, *s.k)
        }
        return tuple(f.substitute(at) for f in self.read.index)

    def _copy(
        self, name: str, inside: list[Affine], dims: list[tuple[str, int]], index: list[Affine]
    ) -> None:
        target, source = Access(name, tuple(inside)), memory_access(self.tensor, index)
        self.emit.emit("copy_in.copy", dims, [target], [source], fill=self.read.fill)

    def _source(self, name: str, layout: RowLayout, base: Mapping[str, Affine]) -> Source:
        return Source(name, tuple(p.position for p in layout.parts), base)
