"""Contractions on a cube that reads memory and accumulates in registers."""

from __future__ import annotations

from opc.program.ir import Access
from opc.tensor.ir import Dim
from passes.lowering._axes import Axis, Frame
from passes.lowering._blocks import Cut
from passes.lowering._emit import Tile
from passes.lowering._knobs import Knobs
from passes.lowering._matmul import ContractionNest, Staged, Tiles, order
from passes.lowering._packing import pack_columns
from passes.lowering._plan import Plan, Shape
from passes.lowering._plan_registers import alternatives, cut_of, plan_registers
from passes.lowering._stage import stage_shared
from passes.tensor._outer_products import apart


class RegisterNest(ContractionNest):
    """One instruction per register block: rows from memory or where they are staged, columns from memory."""

    @property
    def ready(self) -> bool:
        """Whether rows can be read where they are, unpadded and of the multiplied type, with terms that the cube
        takes at once next to each other.
        """
        a, b, size = self.contraction.a, self.contraction.b, self.operand.bytes
        tensor = self.tensors[a.tensor]
        together = self.machine.cube_shape[self.operand][2] == 1 or all(
            apart(tensor, a, name) == size for name in b.index[-1].names
        )
        return a.fill is None and tensor.dtype is self.operand and together

    @property
    def packs(self) -> bool:
        """See the base class."""
        return self.packing is not None and self.plan.inline

    def plan_of(self, shape: Shape) -> Plan:
        """See the base class."""
        self.operand = shape.operand
        self.shared: Access | None = None
        self.near = ""
        return plan_registers(shape, self.machine, self.ready, self.knobs)

    def alternatives(self) -> list[Knobs]:
        """See the base class."""
        return alternatives(self.shape, self.machine, self.ready)

    def run(self) -> None:
        """Emit the whole nest; rows that every core needs are staged in a phase of their own."""
        self.emit.line = self.ops[0].line
        if self.plan.shared:
            self.shared = self._stage_all()
        super().run()
        if not self.parts.inside(self.plan.outer):
            self.parts.apart(self.ragged)

    def _stage_all(self) -> Access:
        a, frame = self.contraction.a, self._frame({})
        batch = Axis("b_", tuple((d.name, d.extent) for d in self.shape.batch))
        names = {d.name for d in self.channels}
        whole = Frame((batch, *frame.axes), frame.base)
        return stage_shared(self.emit, a, self.tensors[a.tensor], whole, names, self.shape.operand)

    def _outer(self, dims: list[Dim], tiles: Tiles, staged: Staged) -> None:
        rows = {d.name for d in self.shape.m}
        outside = any(d.name not in rows for d in dims)
        if outside or self.packing is None or not self.plan.inline or self.near:
            super()._outer(dims, tiles, staged)
            return
        block = self.shape.n[-2].name
        self.near = pack_columns(
            self.emit, self.packing, self.contraction.b, self.tensors, tiles, block, self.shape.n[-1].name
        )
        super()._outer(dims, tiles, staged)
        self.near = ""

    def _slab(self, tiles: Tiles, staged: Staged) -> None:
        a = self.contraction.a
        rows = self.shared
        if rows is None and not self.ready:
            rows = self._stage(a, self._frame(tiles), self.channels)
        self._columns(list(self.shape.n), tiles, {}, Staged(rows))

    def _columns(self, dims: list[Dim], tiles: Tiles, inside: Tiles, staged: Staged) -> None:
        """Blocks of columns within a slab, outside those of rows so that a block of weights stays near."""
        if not dims:
            sizes = {d.name: tiles[d.name].size for d in self.shape.m}
            cut = cut_of(self.shape, self.machine, self.ready, self.knobs, sizes)
            self._cut(cut, tiles, inside, staged)
            if self.parts.inside(self.plan.outer):
                self.parts.block({**tiles, **inside})
            return
        d, rest = dims[0], dims[1:]
        if d.name not in tiles:
            for tile in self._tiles(d, self.plan.outer[d.name], {**tiles, **inside}):
                self._columns(rest, tiles, {**inside, d.name: tile}, staged)
            return
        outer = tiles[d.name]
        with self.emit.loop(f"{d.name}_o", outer.size) as var:
            tile = Tile(outer.base + var, 1, var)
            self._columns(rest, tiles, {**inside, d.name: tile}, staged)

    def _cut(self, cut: Cut | None, tiles: Tiles, inside: Tiles, staged: Staged) -> None:
        """The register blocks of a slab, box by box."""
        if cut is None:
            self._tile({**tiles, **inside}, inside, staged)
            return
        outer = tiles[cut.dim]
        for part in cut.parts:
            with self.emit.loop(f"{cut.dim}_o", part.count) as var:
                base = var * part.size + part.start
                tile = Tile(outer.base + base, part.size, base)
                self._cut(part.inside, tiles, {**inside, cut.dim: tile}, staged)

    def _columns_of(self, frame: Frame, inside: Tiles) -> Access:
        """Where a block of columns is: in memory, or packed nearby."""
        b, block = self.contraction.b, self.shape.n[-2].name if len(self.shape.n) > 1 else ""
        if not self.near:
            return self._direct(b, frame)
        batch = {d.name for d in self.shape.batch}
        kept = [f for f in b.index if not f.names <= batch and f.names != {block}]
        return Access(self.near, (inside[block].order, *(frame.global_form(f) for f in kept)))

    def _multiply(self, tiles: Tiles, inside: Tiles, chunk: Tiles, staged: Staged, acc: str) -> None:
        """One register block straight from memory and the slab."""
        frame = self._frame(tiles, chunk)
        rows, cols, *ks = frame.axes
        c = self.contraction
        everything = {d.name: tiles[d.name] for d in (*self.shape.batch, *self.shape.m)}
        place = self._within(inside) if self.shared is None else everything
        a = self._operand(c.a, frame, staged.rows, {**chunk, **place})
        dims = [*frame.dims((rows, cols)), *frame.dims(ks)]
        self.emit.emit(
            "cube.mma", dims, [Access(acc, (rows.flat(), cols.flat()))], [a, self._columns_of(frame, inside)],
            init=order(chunk), chain=self._chain(), hint="ahead" if self.plan.prefetch else "",
        )  # fmt: skip
