"""Traffic with memory that no cache helps: results stored past the caches, operands fetched ahead of their use.

Stores past the caches take the buffers that the hardware's own prefetches need. Where as much is stored as is
read, fetching a little ahead brings the reads back to speed; where more is read, it was measured to cost some.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from opc.affine import Affine
from opc.tensor.ir import Op, Piece, Read, Tensor, reads
from passes.lowering._emit import Emitter, memory_access
from passes.lowering._expr import Evaluator
from passes.lowering._row_plan import stride


@dataclass
class Ahead:
    """What of one group's traffic passes the caches. ``stored`` names the outputs that leave the group."""

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]

    def __post_init__(self) -> None:
        own = {r.tensor: self.tensors[r.tensor] for op in self.ops for r in reads(op)}
        buffers = self.emit.buffers
        near = {n for n in self.stored if n in buffers and buffers[n].kind == "local"}
        leaving = [t for op in self.ops for t in op.outputs if t.name in self.stored - near]
        # A result that the group reads is not over with, and none that fits a cache leaves it.
        self.streamed = frozenset(t.name for t in leaving if self._large(t) and t.name not in own)
        written = sum(_bytes(t) for t in leaving if t.name in self.streamed)
        fetched = sum(_bytes(t) for t in own.values() if self._large(t))
        self.distance = self.emit.machine.limits.get("ahead_bytes", 0) if 0 < fetched <= written else 0
        self.seen: set[str] = set()

    def _large(self, tensor: Tensor) -> bool:
        return 0 < self.emit.machine.limits.get("l3_bytes", 0) < _bytes(tensor)

    def fetch(self, ev: Evaluator, read: Read, piece: Piece, forms: list[Affine]) -> None:
        """Prefetch beyond a read that walks memory as a streamed result does."""
        tensor = self.tensors[read.tensor]
        if not self.distance or not self._large(tensor) or not self._parallel(read, piece):
            return
        source = memory_access(tensor, forms)
        beyond = source.index[-1] + self.distance // tensor.dtype.bytes
        access = type(source)(source.buffer, (*source.index[:-1], beyond))
        ev.emit.emit("copy_in.prefetch", ev.frame.dims(ev.frame.used(forms)), [], [access], hint="stream")

    def _parallel(self, read: Read, piece: Piece) -> bool:
        """Whether every dimension makes the same step in the operand and in a streamed result."""
        tensor = self.tensors[read.tensor]
        steps = [stride(read.index, tensor, d.name) for d in piece.dims]
        return not piece.reduce and any(
            steps == [stride(op.pieces[0].index, t, d.name) for d in piece.dims]
            for op in self.ops
            for t in op.outputs
            if t.name in self.streamed
        )


def _bytes(tensor: Tensor) -> int:
    return tensor.dtype.bytes * prod(tensor.shape)
