"""The ops of a contraction group on one tile: from the contraction's value to what leaves the group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from opc.tensor.ir import Op, Read, Tensor, walk
from passes.lowering._axes import Frame
from passes.lowering._cube_sums import CubeSums
from passes.lowering._emit import Emitter, memory_access
from passes.lowering._expr import Evaluator, Load, Value
from passes.lowering._statistics import Statistics
from passes.lowering._store import materialise, store

Values = Mapping[Read, Value]


@dataclass
class Epilogue:
    """``ops[0]`` is the contraction; ``stored`` names the outputs that leave the group. ``first``: an op's addition to
    the sum, from which the sum starts instead. ``sums``: those that the cube makes of tiles as they are stored.
    """

    emit: Emitter
    ops: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]
    internal: frozenset[str] = field(init=False)
    statistics: Statistics | None = None
    first: tuple[Op, Read] | None = None
    sums: CubeSums | None = None

    def __post_init__(self) -> None:
        self.internal = frozenset(t.name for op in self.ops for t in op.outputs)

    def external_reads(self) -> Iterator[tuple[Op, Read]]:
        """Reads of tensors from outside the group, with the op that has them."""
        if self.first is not None:
            yield self.first
        for op in self.ops[1:]:
            for node in walk(op.pieces[0].body):
                if isinstance(node, Read) and node.tensor not in self.internal:
                    yield op, node

    def columns(self, frame: Frame, rows: set[str]) -> dict[Read, Value]:
        """Load what does not vary over ``rows``, once for all row tiles."""
        ev = Evaluator(self.emit, frame, self._load(frame, {}, {}))
        found: dict[Read, Value] = {}
        for op, read in self.external_reads():
            if read not in found and not any(f.names & rows for f in read.index):
                self.emit.line = op.line
                found[read] = _kept(ev.widen(ev.load(read)))
        self.emit.line = self.ops[0].line
        return found

    def apply(self, frame: Frame, value: Value, loaded: Values) -> None:
        """Emit every op of the group on the tile whose contraction value is at hand."""
        bound: dict[str, Value] = {}
        ev = Evaluator(self.emit, frame, self._load(frame, bound, loaded))
        self._finish(ev, self.ops[0], value, bound)
        for op in self.ops[1:]:
            if self.sums is not None and op in self.sums.ops:
                continue
            self.emit.line = op.line
            body = op.pieces[0].body
            if op.monoid is not None and self.statistics is not None:
                self.statistics.add(ev, op, ev.value(body))
                continue
            last = op.name in self.stored and not self._readers(op.name)
            result = ev.stored(body, op.outputs[0].dtype) if last else ev.value(body)
            self._finish(ev, op, result, bound)
        if self.sums is not None:
            self.sums.take(frame, bound)
        self.emit.line = self.ops[0].line

    def _load(self, frame: Frame, bound: dict[str, Value], loaded: Values) -> Load:
        def load(read: Read) -> Value:
            if read.tensor in bound:
                return bound[read.tensor]
            if read in loaded:
                return loaded[read]
            tensor = self.tensors[read.tensor]
            forms = [frame.global_form(f) for f in read.index]
            ev = Evaluator(self.emit, frame, load)
            return ev.dense(memory_access(tensor, forms), frame.used(forms), tensor.dtype, read.fill)

        return load

    def _finish(self, ev: Evaluator, op: Op, value: Value, bound: dict[str, Value]) -> None:
        """Bind an op's value for the ops after it, and store it if it leaves the group."""
        out = op.outputs[0]
        if not out.dtype.is_float and value.dtype is not out.dtype:
            value = ev.convert(value, out.dtype)  # integers wrap or saturate in their own type
        multiplied = self.sums is not None and out.name in self.sums.used
        if multiplied:
            value = materialise(ev, value, ev.frame.axes, out)
        if out.name in self.stored:
            store(ev, value, op.pieces[0], out)
        # A value that several ops read must not be overwritten by the first of them.
        bound[out.name] = value if self._readers(out.name) == 1 and not multiplied else _kept(value)

    def _readers(self, name: str) -> int:
        return sum(
            any(isinstance(n, Read) and n.tensor == name for n in walk(o.pieces[0].body)) for o in self.ops
        )


def _kept(value: Value) -> Value:
    """The value, not to be overwritten in place."""
    return replace(value, temporary=False)
