"""Evaluation of a piece's scalar expression over blocks of its domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from opc.dtypes import DType
from opc.tensor.bound import Array, Bounded, Choices
from opc.tensor.gather import Block, Source
from opc.tensor.ir import Const, DimValue, Piece, Read, Tensor
from opc.tensor.types import Typed, annotate, literal
from opc.tensor.values import Mode, Value, apply, cast, convert, representable, rounding, settle

_CASTS = frozenset(str(d) for d in DType)


@dataclass(slots=True)
class Entry:
    """A tensor and its values; ``allowed`` are the indices that rounding leaves to an argmax."""

    tensor: Tensor
    value: Value
    allowed: list[tuple[Array, Array]] = field(default_factory=list)
    operand: Value | None = None

    def bounded(self) -> Bounded:
        """The values as a result."""
        error = self.value.error
        bound = np.zeros(self.value.data.shape) if error is None else np.asarray(error, dtype=np.float64)
        choices = None
        if self.allowed:
            width = max(a.shape[1] for _, a in self.allowed)
            rows = [np.pad(a, ((0, 0), (0, width - a.shape[1]))) for _, a in self.allowed]
            choices = Choices(np.concatenate([p for p, _ in self.allowed]), np.concatenate(rows))
            # Distance means nothing for an index: the choices decide.
            open_ = np.isin(np.arange(bound.size), choices.positions).reshape(bound.shape)
            bound = np.where(open_, 0.0, bound)
        return Bounded(self.value.data, bound, self.tensor.dtype, choices)

    def read(self) -> Value:
        """The values as later ops see them: what may have overflowed in storage is unknown."""
        if self.operand is None:
            value, dtype = self.value, self.tensor.dtype
            if value.error is not None:
                sure = np.isfinite(value.error)
                value = settle(value, lambda: sure, dtype)
            self.operand = value
        return self.operand


class Body:
    """The expression of one piece; ``table`` holds the tensors defined so far."""

    def __init__(
        self, piece: Piece, table: Mapping[str, Entry], default: DType, whole: Block, mode: Mode
    ) -> None:
        self.table, self.mode, self.whole = table, mode, whole
        self.nodes = annotate(piece.body, {name: e.tensor for name, e in table.items()}, default)[0]
        self.sources: dict[tuple[object, ...], Source] = {}
        dtype = self.nodes[-1].dtype
        assert dtype is not None
        self.dtype: DType = dtype

    def value(self, block: Block) -> Value:
        """The expression over one block."""
        value = self._values(block, len(self.nodes))[-1]
        assert value is not None
        return value

    def factors(self, block: Block) -> list[Value]:
        """The operands of the expression, which is a call, in the type it computes in."""
        values = self._values(block, len(self.nodes) - 1)
        return [self._operand(values, i, self.dtype) for i in self.nodes[-1].args]

    def _values(self, block: Block, until: int) -> list[Value | None]:
        """Values of the first ``until`` nodes; those already consumed are dropped."""
        values: list[Value | None] = []
        for typed in self.nodes[:until]:
            values.append(self._node(typed, values, block))
            for i in typed.args:
                values[i] = None
        return values

    def _node(self, typed: Typed, values: Sequence[Value | None], block: Block) -> Value:
        node, dtype = typed.node, typed.dtype
        if isinstance(node, Read):
            return self._read(node, block)
        if isinstance(node, DimValue):
            return Value(block.values(node.form))
        if isinstance(node, Const):
            return self._constant(node, dtype or DType.F32, len(block.names))
        first, source = values[typed.args[0]], self.nodes[typed.args[0]].dtype
        assert first is not None
        if node.fn in _CASTS:
            assert source is not None
            return cast(first, source, DType(node.fn), self.mode)
        if node.fn == "select":
            assert dtype is not None
            rest = [self._operand(values, i, dtype) for i in typed.args[1:]]
            return apply(node.fn, [first, *rest], dtype, self.mode)
        common = dtype or _meet([self.nodes[i].dtype for i in typed.args])
        return apply(node.fn, [self._operand(values, i, common) for i in typed.args], common, self.mode)

    def _operand(self, values: Sequence[Value | None], i: int, dtype: DType) -> Value:
        value, source = values[i], self.nodes[i].dtype
        assert value is not None
        assert source is not None
        return convert(value, source, dtype, self.mode)

    def _constant(self, node: Const, dtype: DType, rank: int) -> Value:
        own = node.dtype or dtype
        data = np.full((1,) * rank, literal(node.value, own), dtype=self.mode.numpy(own))
        return quantised(data, own, self.mode)

    def _read(self, node: Read, block: Block) -> Value:
        entry = self.table[node.tensor]
        value, dtype = entry.read(), entry.tensor.dtype
        number = np.full((), literal(node.fill or 0, dtype), dtype=self.mode.numpy(dtype))
        fill = quantised(number, dtype, self.mode)
        data = self._gather(node, value.data, block, fill.data.item(), "data")
        if value.error is None and fill.error is None:
            return Value(data)
        error = np.zeros(value.data.shape) if value.error is None else value.error
        outside = 0.0 if fill.error is None else float(fill.error)
        return Value(data, self._gather(node, error, block, outside, "error"))

    def _gather(self, node: Read, array: Array, block: Block, fill: float, what: str) -> Array:
        key = (node.tensor, what)
        if key not in self.sources:
            self.sources[key] = Source(
                np.broadcast_to(array, self.table[node.tensor].tensor.shape), self.whole
            )
        return self.sources[key].read(node.index, block, fill)


def quantised(data: Array, dtype: DType, mode: Mode) -> Value:
    """A literal as ``dtype`` holds it."""
    if not dtype.is_float:
        return Value(data)
    if mode.quantise:
        return Value(data.astype(dtype.numpy).astype(mode.numpy(dtype)))
    if not mode.track or dtype is DType.F64 or representable(data, dtype):
        return Value(data)
    return Value(data, rounding(data, dtype))


def _meet(types: Sequence[DType | None]) -> DType:
    """The type in which a comparison compares."""
    order = [DType.I32, DType.F32, DType.F64]
    return max((t for t in types if t is not None), key=order.index)
