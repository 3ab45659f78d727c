"""Storing a tile: convert to the tensor's type, spread broadcast values, copy out to memory."""

from __future__ import annotations

from opc.affine import Affine
from opc.program.ir import Access
from opc.tensor.ir import Piece, Tensor
from passes.lowering._axes import Axis
from passes.lowering._emit import memory_access
from passes.lowering._expr import Evaluator, Value


def store(ev: Evaluator, value: Value, piece: Piece, out: Tensor, hint: str = "") -> None:
    """Emit the copy of ``value`` to ``out`` at the piece's index, over every axis of its parallel dims."""
    parallel = {d.name for d in piece.dims}
    axes = tuple(a for a in ev.frame.axes if a.dims and all(n in parallel for n, _ in a.dims))
    direct = ev.emit.machine.role("vector").addressable and isinstance(value.operand, Access)
    # A copy out of an addressable space can gather and spread by itself.
    ready = direct and value.dtype is out.dtype
    operand = value.operand if ready else materialise(ev, value, axes, out).operand
    assert isinstance(operand, Access)
    target = memory_access(out, [ev.frame.global_form(f) for f in piece.index])
    ev.emit.emit("copy_out.copy", ev.frame.dims(axes), [target], [by_dims(operand, axes)], hint=hint)


def materialise(ev: Evaluator, value: Value, axes: tuple[Axis, ...], out: Tensor) -> Value:
    """The value as a dense tile over ``axes`` in the tensor's type."""
    dense = isinstance(value.operand, Access) and value.temporary
    wide = tuple(a for a in axes if a.size > 1)
    if dense and value.dtype is out.dtype and tuple(a for a in value.axes if a.size > 1) == wide:
        return value
    buffer = ev.buffer(axes, out.dtype, "out")
    target = ev.at(buffer, axes)
    ev.emit.emit("vector.copy", ev.frame.axis_dims(axes), [target], [value.operand])
    return Value(target, axes, out.dtype, True)


def by_dims(operand: Access, axes: tuple[Axis, ...]) -> Access:
    """An access by whole axes restated over the axes' dimensions."""
    flat: dict[str, Affine | int] = {a.name: a.flat() for a in axes}
    return Access(operand.buffer, tuple(f.substitute(flat) for f in operand.index), operand.slot)
