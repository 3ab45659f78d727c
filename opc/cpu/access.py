"""Vector loads and stores along one dimension of a view."""

from __future__ import annotations

from opc.cpu import strided, values
from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.cpu.values import Vec

STREAM = 16  # bytes: the narrowest vector that is stored past the caches


def load(f: Function, v: View, dim: str, lanes: int, live: int, raw: bool = False) -> Vec:
    """``live`` neighbours along ``dim`` from its current value on, in the compute type (or as stored)."""
    stride = v.stride(dim)
    pointer = f.pointer(v.base, v.form)
    if stride == 0 or lanes == 1:
        one = values.load_raw(f, v.dtype, pointer, 1, 1)
        return values.broadcast(f, one if raw else values.widen(f, v.dtype, one), lanes)
    if stride == 1:
        bits = _contiguous(f, v, pointer, lanes, live)
    elif 1 < stride <= strided.MOST and not v.register:

        def element(k: int) -> str:
            return f.pointer(v.base, v.form + k * v.dtype.bytes)

        bits = strided.load(f, v.dtype, element, stride, lanes, range(live), None)
    else:
        bits = Vec(str(v.dtype), lanes, "poison")
        for lane in range(live):
            at = f.pointer(v.base, v.form + lane * stride * v.dtype.bytes)
            bits = values.insert(f, bits, lane, values.load_raw(f, v.dtype, at, 1, 1))
    return bits if raw else values.widen(f, v.dtype, bits)


def _contiguous(f: Function, v: View, pointer: str, lanes: int, live: int) -> Vec:
    if live < lanes and v.register and _room(f, v) >= lanes:
        live = lanes
    if live < lanes and v.register:
        return values.load_pieces(f, v.dtype, pointer, lanes, live)
    return values.load_raw(f, v.dtype, pointer, lanes, live)


def _room(f: Function, v: View) -> int:
    """Elements from here to the end of a register buffer's padded row (0 if that is not known)."""
    row = v.row * v.dtype.bytes
    terms, const = f.known(v.form)
    if any(c % row for c in terms.values()):
        return 0
    return v.row - (const % row) // v.dtype.bytes


def store(f: Function, v: View, dim: str, value: Vec, live: int, raw: bool = False) -> None:
    """Convert to the view's type and store ``live`` lanes along ``dim``."""
    bits = value if raw else values.narrow(f, v.dtype, value)
    stride = v.stride(dim)
    pointer = f.pointer(v.base, v.form)
    if bits.lanes == 1 or stride == 1:
        aligned = f.alignment(v.form, v.dtype.bytes * bits.lanes) if v.stream else 0
        if aligned >= STREAM:
            values.store_stream(f, v.dtype, pointer, bits, live, aligned)
        elif live < bits.lanes and v.register:
            _store_register(f, v, pointer, bits, live)
        else:
            values.store_raw(f, v.dtype, pointer, bits, live)
        return
    for lane in range(live):
        at = f.pointer(v.base, v.form + lane * stride * v.dtype.bytes)
        values.store_raw(f, v.dtype, at, values.extract(f, bits, lane, 1), 1)


def _store_register(f: Function, v: View, pointer: str, bits: Vec, live: int) -> None:
    """Whole vectors only, so that the buffer stays in registers: padding may be overwritten, neighbours
    not.
    """
    room = _room(f, v)
    if room < bits.lanes:
        values.store_pieces(f, v.dtype, pointer, bits, live)
        return
    if room - (v.row - v.used) > live:
        old = values.load_raw(f, v.dtype, pointer, bits.lanes, bits.lanes)
        order = ", ".join(f"i32 {i if i < live else i + bits.lanes}" for i in range(bits.lanes))
        mixed = f.op(
            f"shufflevector {bits.type} {bits.ref}, {bits.type} {old.ref}, <{bits.lanes} x i32> <{order}>"
        )
        bits = Vec(bits.kind, bits.lanes, mixed)
    values.store_raw(f, v.dtype, pointer, bits, bits.lanes)
