"""Contractions on a cube that reads memory and accumulates in registers."""

from __future__ import annotations

from dataclasses import replace

from opc.program.ir import Access
from passes.lowering._knobs import Knobs
from passes.lowering._matmul import ContractionNest, Staged, Tiles, order
from passes.lowering._plan import Plan, Shape
from passes.lowering._plan_registers import alternatives, plan_registers


class RegisterNest(ContractionNest):
    """One instruction per register block: rows from memory or the staged slab, columns from memory."""

    def plan_of(self, shape: Shape) -> Plan:
        """See the base class."""
        return plan_registers(shape, self.machine, self.knobs)

    def alternatives(self) -> list[Knobs]:
        """See the base class."""
        return alternatives(self.shape, self.plan)

    def inside(self) -> None:
        """Emit the nest on one block of rows, inside loops that are open: all its rows under one block of columns."""
        whole = {d.name: d.extent for d in self.shape.m[-1:]}
        self.plan = replace(self.plan, parallel="", columns=0, outer={**self.plan.outer, **whole})
        self.emit.line = self.ops[0].line
        self._outer(self._order(), {}, Staged())

    def _multiply(self, tiles: Tiles, inside: Tiles, chunk: Tiles, staged: Staged, acc: str) -> None:
        """One register block straight from memory and the slab."""
        frame = self._frame(tiles, chunk)
        rows, cols, *ks = frame.axes
        c = self.contraction
        a = self._operand(c.a, frame, staged.rows, {**chunk, **self._within(inside)})
        dims = [*frame.dims((rows, cols)), *frame.dims(ks)]
        self.emit.emit(
            "cube.mma", dims, [Access(acc, (rows.flat(), cols.flat()))], [a, self._direct(c.b, frame)],
            init=order(chunk), chain=self._chain(),
        )  # fmt: skip
