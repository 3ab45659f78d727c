"""The contraction of a chain: a product per point of a transform, few rows and a panel of weights each."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod

from opc.affine import Affine
from opc.program.ir import Imm
from opc.tensor.ir import Dim
from passes.lowering._emit import memory_access
from passes.lowering._expr import Evaluator
from passes.lowering._matmul import Staged, Tiles
from passes.lowering._matmul_registers import RegisterNest

# Terms between two requests for weights: a few lines each, and little more work than one long sum.
_CHUNK = 32


class ChainedNest(RegisterNest):
    """Every panel of weights meets all rows that are near before the next one comes, and is fetched meanwhile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        s = self.shape
        sizes = {**{d.name: d.extent for d in s.m[:-1]}, **{d.name: 1 for d in s.n[:-1]}}
        if s.m:
            sizes[s.m[-1].name] = self._rows(s.m[-1])
        first = s.batch[0].name if s.batch else self.plan.parallel
        self.plan = replace(self.plan, parallel=first, columns=0, outer={**self.plan.outer, **sizes})
        table = self.tensors[self.contraction.b.tensor]
        # Weights that the nearest large cache holds are there since the last block of rows.
        far = prod(table.shape) * table.dtype.bytes > self.machine.role("stage").capacity
        self.fetch = far and bool(self.machine.prefetch_pipe) and len(s.n) > 1 and bool(s.m)
        if self.fetch:
            self.plan = replace(
                self.plan, chunk={**self.plan.chunk, s.k[-1].name: min(s.k[-1].extent, _CHUNK)}
            )

    def _rows(self, d: Dim) -> int:
        """Rows of A in as few equal slabs as fit a quarter of the cache that panels share with them."""
        row = prod(k.extent for k in self.shape.k) * self.shape.operand.bytes
        most = max(1, self.machine.role("stage").capacity // 2 // row)
        return ceil(d.extent / ceil(d.extent / most))

    def inside(self) -> None:
        """Emit the nest inside loops that are open."""
        self.plan = replace(self.plan, parallel="")
        self.emit.line = self.ops[0].line
        self._outer(self._order(), {}, Staged())

    def _multiply(self, tiles: Tiles, inside: Tiles, chunk: Tiles, staged: Staged, acc: str) -> None:
        if self.fetch:
            self._fetch(tiles, inside, chunk)
            # The accumulators start at zero ahead of the loop: choosing in every chunk would cost registers.
            chunk = {name: replace(t, order=Affine((), 1)) for name, t in chunk.items()}
        super()._multiply(tiles, inside, chunk, staged, acc)

    def _tile(self, tiles: Tiles, inside: Tiles, staged: Staged) -> None:
        if not self.fetch:
            super()._tile(tiles, inside, staged)
            return
        frame = self._tile_frame(tiles)
        acc = self.emit.local("acc", self.shape.accumulator, [a.size for a in frame.axes], self.accumulator)
        self.emit.emit(
            "vector.copy", frame.axis_dims(frame.axes), [Evaluator.at(acc, frame.axes)], [Imm(0.0)]
        )
        for chunk in self._chunks(list(self.shape.k), {}):
            self._multiply(tiles, inside, chunk, staged, acc)
        self._drain(tiles, frame, acc, staged)

    def _fetch(self, tiles: Tiles, inside: Tiles, chunk: Tiles) -> None:
        """This chunk's share of the next panel of weights: spread evenly, or the requests would block each other."""
        s, read = self.shape, self.contraction.b
        *_, block, column = s.n
        k, m = s.k[-1], s.m[-1]
        rows, part = inside[m.name], chunk[k.name]
        of = self.plan.outer[m.name]
        lines = ceil(part.size * rows.size / of)
        values: dict[str, Affine | int] = dict(self._frame(tiles).base)
        values[block.name] = tiles[block.name].base + 1
        values[column.name] = Affine.var(column.name)
        values[k.name] = rows.order * ceil(k.extent / of) + part.order * lines + Affine.var(k.name)
        index = [f.substitute(values) for f in read.index]
        source = memory_access(self.tensors[read.tensor], index)
        dims = [(k.name, lines), (column.name, column.extent)]
        self.emit.emit("copy_in.prefetch", dims, [], [source], hint="l2")
