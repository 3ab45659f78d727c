"""Vectors in flight: their LLVM types, loads and stores with conversion, and the storage formats.

A ``Vec`` holds compute values (f64, f32, i32), conditions (i1) or raw storage bits; f16 and bf16 exist
only in memory.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from math import gcd

from opc.cpu.function import Function
from opc.dtypes import DType

_TYPES = {"f64": "double", "f32": "float", "f16": "half", "bf16": "i16"}
_TYPES |= {name: name for name in ("i64", "i32", "i16", "i8", "i1")}
_MANGLED = {**{name: name for name in _TYPES}, "bf16": "i16"}


@dataclass(frozen=True, slots=True)
class Vec:
    """``lanes`` values of ``kind``; one lane is a scalar."""

    kind: str
    lanes: int
    ref: str

    @property
    def type(self) -> str:
        return llvm_type(self.kind, self.lanes)


def llvm_type(kind: str, lanes: int = 1) -> str:
    """LLVM's spelling of a scalar or vector type."""
    return _TYPES[kind] if lanes == 1 else f"<{lanes} x {_TYPES[kind]}>"


def mangled(kind: str, lanes: int = 1) -> str:
    """The type as it stands in an intrinsic's name."""
    return _MANGLED[kind] if lanes == 1 else f"v{lanes}{_MANGLED[kind]}"


def literal(kind: str, value: float | int | bool) -> str:
    """A scalar constant of ``kind``."""
    if kind == "i1":
        return "true" if value else "false"
    if kind in ("f64", "f32"):
        number = float(value)
        if kind == "f32" and math.isfinite(number):
            try:
                number = struct.unpack("<f", struct.pack("<f", number))[0]
            except OverflowError:
                number = math.copysign(math.inf, number)
        return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
    if not math.isfinite(value):
        return str(0 if math.isnan(value) else 2**31 - 1 if value > 0 else -(2**31))
    return str(int(value))


def literal_bits(dtype: DType, value: float | int) -> int:
    """How memory holds a constant; infinities are an integer type's limits."""
    import numpy as np

    if not dtype.is_float:
        limit = 2 ** (8 * dtype.bytes - 1)
        value = int(max(-limit, min(limit - 1, value)))
    wide = np.array(value, np.float64 if dtype.is_float else np.int64)
    with np.errstate(over="ignore"):
        return int.from_bytes(wide.astype(dtype.numpy).tobytes(), "little")


def splat(kind: str, lanes: int, value: float | int | bool) -> Vec:
    """A constant in every lane."""
    text = literal(kind, value)
    return Vec(kind, lanes, text if lanes == 1 else f"splat ({_TYPES[kind]} {text})")


def broadcast(f: Function, value: Vec, lanes: int) -> Vec:
    """A scalar into every lane."""
    if value.lanes == lanes:
        return value
    one = f.op(f"insertelement {llvm_type(value.kind, lanes)} poison, {value.type} {value.ref}, i64 0")
    type_ = llvm_type(value.kind, lanes)
    spread = f.op(f"shufflevector {type_} {one}, {type_} poison, <{lanes} x i32> zeroinitializer")
    return Vec(value.kind, lanes, spread)


def unary(f: Function, op: str, v: Vec) -> Vec:
    """An LLVM instruction with one operand."""
    return Vec(v.kind, v.lanes, f.op(f"{op} {v.type} {v.ref}"))


def binary(f: Function, op: str, a: Vec, b: Vec) -> Vec:
    """An LLVM instruction with two operands of one type."""
    return Vec(a.kind, a.lanes, f.op(f"{op} {a.type} {a.ref}, {b.ref}"))


def compare(f: Function, op: str, a: Vec, b: Vec) -> Vec:
    """``op`` such as ``fcmp oeq``."""
    return Vec("i1", a.lanes, f.op(f"{op} {a.type} {a.ref}, {b.ref}"))


def select(f: Function, c: Vec, a: Vec, b: Vec) -> Vec:
    """``a`` where ``c`` holds, else ``b``."""
    return Vec(a.kind, a.lanes, f.op(f"select {c.type} {c.ref}, {a.type} {a.ref}, {b.type} {b.ref}"))


def convert_bits(f: Function, op: str, v: Vec, kind: str) -> Vec:
    """An LLVM conversion instruction."""
    return Vec(kind, v.lanes, f.op(f"{op} {v.type} {v.ref} to {llvm_type(kind, v.lanes)}"))


def intrinsic(f: Function, name: str, *arguments: Vec) -> Vec:
    """``llvm.NAME`` overloaded on the first operand's type."""
    first = arguments[0]
    full = f"llvm.{name}.{mangled(first.kind, first.lanes)}"
    ref = f.call(full, first.type, [a.ref for a in arguments], [a.type for a in arguments])
    return Vec(first.kind, first.lanes, ref)


def pinned(f: Function, v: Vec) -> Vec:
    """The value, computed before whatever follows: LLVM would put off pure operations until their use."""
    bits = v.lanes * {"f64": 64, "f32": 32, "i32": 32, "bf16": 16, "f16": 16}.get(v.kind, 0)
    if not f.pinned or not _one_register(f, bits, bits // v.lanes):
        return v
    return Vec(v.kind, v.lanes, f.op(f'call {v.type} asm sideeffect "", "=v,0"({v.type} {v.ref})'))


def _one_register(f: Function, bits: int, element: int) -> bool:
    """Whether a vector fills one register: LLVM gives up, and ends the process, where an operand of assembly does not
    fit.
    """
    needed = {128: "", 256: "avx2", 512: "avx512f" if element >= 32 else "avx512bw"}.get(bits)
    return needed is not None and (not needed or needed in f.module.features)


def multiply_add(f: Function, a: Vec, b: Vec, c: Vec) -> Vec:
    """a·b + c, fused where the processor can: elsewhere a fused one would be a library call per lane."""
    if f.module.fused:
        return intrinsic(f, "fma", a, b, c)
    return binary(f, "fadd", binary(f, "fmul", a, b), c)


# Storage formats


def widen(f: Function, dtype: DType, raw: Vec) -> Vec:
    """Stored bits of ``dtype`` to its compute type."""
    if dtype is DType.BF16:
        wide = convert_bits(f, "zext", raw, "i32")
        return convert_bits(f, "bitcast", binary(f, "shl", wide, splat("i32", raw.lanes, 16)), "f32")
    if dtype is DType.F16:
        return convert_bits(f, "fpext", raw, "f32") if _has_f16(f) else _half_to_float(f, raw)
    if dtype is DType.I8:
        return convert_bits(f, "sext", raw, "i32")
    return raw


def narrow(f: Function, dtype: DType, v: Vec) -> Vec:
    """A value of any compute kind to the stored bits of ``dtype``: floats to nearest even, i8 saturating."""
    if v.kind == "i1":
        v = convert_bits(f, "zext", v, "i32")
    if dtype in (DType.BF16, DType.F16):
        v = _round_to_odd(f, v) if v.kind == "f64" else to_kind(f, v, "f32")
        return _to_bf16(f, v) if dtype is DType.BF16 else _to_half(f, v)
    if dtype is DType.I8:
        return _to_i8(f, v)
    return to_kind(f, v, str(dtype))


def to_kind(f: Function, v: Vec, kind: str) -> Vec:
    """Convert between compute kinds; float to i32 truncates and saturates, NaN becomes 0."""
    if v.kind == kind:
        return v
    if v.kind == "i1":
        v = convert_bits(f, "zext", v, "i32")
        return to_kind(f, v, kind)
    if kind == "i1":
        zero = splat(v.kind, v.lanes, 0)
        return compare(f, "icmp ne" if v.kind == "i32" else "fcmp une", v, zero)
    if kind == "i32":
        name = f"llvm.fptosi.sat.{mangled('i32', v.lanes)}.{mangled(v.kind, v.lanes)}"
        return Vec("i32", v.lanes, f.call(name, llvm_type("i32", v.lanes), [v.ref], [v.type]))
    if v.kind == "i32":
        return convert_bits(f, "sitofp", v, kind)
    return convert_bits(f, "fpext" if kind == "f64" else "fptrunc", v, kind)


def _to_i8(f: Function, v: Vec) -> Vec:
    if v.kind != "i32":
        rounded = intrinsic(f, "rint", v)
        v = to_kind(f, rounded, "i32")
    low = intrinsic(f, "smax", v, splat("i32", v.lanes, -128))
    return convert_bits(f, "trunc", intrinsic(f, "smin", low, splat("i32", v.lanes, 127)), "i8")


def _to_bf16(f: Function, v: Vec) -> Vec:
    n = v.lanes
    if "avx512bf16" in f.module.features:  # one instruction, which flushes subnormals
        kind = llvm_type("f32", n).replace("float", "bfloat")
        short = f.op(f"fptrunc {v.type} {v.ref} to {kind}")
        return Vec("bf16", n, f.op(f"bitcast {kind} {short} to {llvm_type('bf16', n)}"))
    bits = convert_bits(f, "bitcast", v, "i32")
    high = binary(f, "lshr", bits, splat("i32", n, 16))
    odd = binary(f, "and", high, splat("i32", n, 1))
    biased = binary(f, "add", bits, binary(f, "add", odd, splat("i32", n, 0x7FFF)))
    rounded = binary(f, "lshr", biased, splat("i32", n, 16))
    chosen = select(f, compare(f, "fcmp uno", v, v), splat("i32", n, 0x7FC0), rounded)
    return convert_bits(f, "trunc", chosen, "bf16")


def _has_f16(f: Function) -> bool:
    # Without F16C the conversions would be library calls, which a JIT cannot always resolve.
    return not f.module.x86 or bool(f.module.features & {"f16c", "avx512f"})


def _to_half(f: Function, v: Vec) -> Vec:
    return convert_bits(f, "fptrunc", v, "f16") if _has_f16(f) else _float_to_half(f, v)


def _round_to_odd(f: Function, v: Vec) -> Vec:
    """f64 to f32 so that a second rounding to 16 bits is still to nearest."""
    n = v.lanes
    near = convert_bits(f, "fptrunc", v, "f32")
    back = convert_bits(f, "fpext", near, "f64")
    bits = convert_bits(f, "bitcast", near, "i32")
    exact = compare(f, "fcmp ueq", back, v)
    magnitude, original = intrinsic(f, "fabs", back), intrinsic(f, "fabs", v)
    above = convert_bits(f, "zext", compare(f, "fcmp ogt", magnitude, original), "i32")
    truncated = binary(f, "or", binary(f, "sub", bits, above), splat("i32", n, 1))
    # Infinity is kept: anything that large is infinite in 16 bits too.
    infinite = compare(f, "fcmp oeq", magnitude, splat("f64", n, math.inf))
    keep = binary(f, "or", exact, infinite)
    return convert_bits(f, "bitcast", select(f, keep, bits, truncated), "f32")


def _half_to_float(f: Function, raw: Vec) -> Vec:
    n = raw.lanes
    bits = convert_bits(f, "zext", convert_bits(f, "bitcast", raw, "i16"), "i32")
    shifted = binary(f, "shl", binary(f, "and", bits, splat("i32", n, 0x7FFF)), splat("i32", n, 13))
    sign = binary(f, "shl", binary(f, "and", bits, splat("i32", n, 0x8000)), splat("i32", n, 16))
    # Scaling by 2**112 moves the exponent bias and normalises subnormals exactly.
    scaled = binary(f, "fmul", convert_bits(f, "bitcast", shifted, "f32"), splat("f32", n, 2.0**112))
    special = compare(f, "icmp uge", shifted, splat("i32", n, 0x7C00 << 13))
    infinite = binary(f, "or", shifted, splat("i32", n, 0x7F800000))
    value = select(f, special, infinite, convert_bits(f, "bitcast", scaled, "i32"))
    return convert_bits(f, "bitcast", binary(f, "or", value, sign), "f32")


def _float_to_half(f: Function, v: Vec) -> Vec:
    n = v.lanes

    def number(value: int) -> Vec:
        return splat("i32", n, value)

    bits = convert_bits(f, "bitcast", v, "i32")
    magnitude = binary(f, "and", bits, number(0x7FFFFFFF))
    sign = binary(f, "lshr", binary(f, "and", bits, number(-0x80000000)), number(16))
    odd = binary(f, "and", binary(f, "lshr", magnitude, number(13)), number(1))
    normal = binary(
        f, "lshr", binary(f, "add", binary(f, "add", magnitude, number(-0x37FFF001)), odd), number(13)
    )
    # Adding 0.5 aligns a subnormal half's last place with the sum's, so the adder rounds it to nearest even.
    aligned = binary(f, "fadd", convert_bits(f, "bitcast", magnitude, "f32"), splat("f32", n, 0.5))
    small = binary(f, "sub", convert_bits(f, "bitcast", aligned, "i32"), number(0x3F000000))
    value = select(f, compare(f, "icmp ult", magnitude, number(0x38800000)), small, normal)
    value = select(f, compare(f, "icmp uge", magnitude, number(0x47800000)), number(0x7C00), value)
    value = select(f, compare(f, "icmp ugt", magnitude, number(0x7F800000)), number(0x7E00), value)
    half = convert_bits(f, "trunc", binary(f, "or", value, sign), "i16")
    return convert_bits(f, "bitcast", half, "f16")


# Memory


def load_raw(f: Function, dtype: DType, pointer: str, lanes: int, live: int, align: int = 0) -> Vec:
    """``live`` of ``lanes`` consecutive elements; the other lanes are undefined and their memory is not
    touched. ``align``: of the address, if not the element's.
    """
    kind = str(dtype)
    align = align or dtype.bytes
    if live == lanes:
        return Vec(kind, lanes, f.op(f"load {llvm_type(kind, lanes)}, ptr {pointer}, align {align}"))
    if dtype.bytes >= 4 or _masks_short(f, dtype):
        name = f"llvm.masked.load.{mangled(kind, lanes)}.p0"
        type_ = llvm_type(kind, lanes)
        arguments = [pointer, str(align), _mask(lanes, live), "poison"]
        return Vec(kind, lanes, f.call(name, type_, arguments, ["ptr", "i32", f"<{lanes} x i1>", type_]))
    return load_pieces(f, dtype, pointer, lanes, live)


def _masks_short(f: Function, dtype: DType) -> bool:
    """Whether parts of vectors of that type, which takes less than a word, move in one instruction."""
    return dtype in (DType.BF16, DType.I8) and {"avx512bw", "avx512vl"} <= f.module.features


def _mask(lanes: int, live: int) -> str:
    return "<" + ", ".join(f"i1 {'true' if i < live else 'false'}" for i in range(lanes)) + ">"


def _pieces(live: int) -> list[tuple[int, int]]:
    """``live`` as (start, power of two), largest first."""
    found, start = [], 0
    while start < live:
        size = 1 << ((live - start).bit_length() - 1)
        found.append((start, size))
        start += size
    return found


def load_pieces(f: Function, dtype: DType, pointer: str, lanes: int, live: int) -> Vec:
    """A partial load as loads of powers of two."""
    kind, size = str(dtype), dtype.bytes
    total = Vec(kind, lanes, "poison")
    for start, width in _pieces(live):
        at = f.op(f"getelementptr i8, ptr {pointer}, i64 {start * size}") if start else pointer
        part = Vec(kind, width, f.op(f"load {llvm_type(kind, width)}, ptr {at}, align {size}"))
        if width == 1:
            ref = f.op(f"insertelement {total.type} {total.ref}, {part.type} {part.ref}, i64 {start}")
        else:
            spread = ", ".join(f"i32 {i}" if i < width else "i32 poison" for i in range(lanes))
            wide = f.op(
                f"shufflevector {part.type} {part.ref}, {part.type} poison, <{lanes} x i32> <{spread}>"
            )
            order = ", ".join(
                f"i32 {i - start + lanes if start <= i < start + width else i}" for i in range(lanes)
            )
            ref = f.op(
                f"shufflevector {total.type} {total.ref}, {total.type} {wide}, <{lanes} x i32> <{order}>"
            )
        total = Vec(kind, lanes, ref)
    return total


def store_raw(f: Function, dtype: DType, pointer: str, v: Vec, live: int) -> None:
    """Store the first ``live`` lanes; in pieces where a masked store takes longer than several stores."""
    size = dtype.bytes
    if live == v.lanes:
        f.do(f"store {v.type} {v.ref}, ptr {pointer}, align {size}")
        return
    if (size >= 4 and (not f.module.x86 or "avx512vl" in f.module.features)) or _masks_short(f, dtype):
        name = f"llvm.masked.store.{mangled(v.kind, v.lanes)}.p0"
        arguments = [v.ref, pointer, str(size), _mask(v.lanes, live)]
        f.call(name, "void", arguments, [v.type, "ptr", "i32", f"<{v.lanes} x i1>"])
        return
    store_pieces(f, dtype, pointer, v, live)


def store_stream(f: Function, dtype: DType, pointer: str, v: Vec, live: int, align: int) -> None:
    """Store the first ``live`` lanes past the caches, at an address of that alignment."""
    size = dtype.bytes
    for start, width in [(0, live)] if live == v.lanes else _pieces(live):
        at = f.op(f"getelementptr i8, ptr {pointer}, i64 {start * size}") if start else pointer
        part, known = extract(f, v, start, width), gcd(align, start * size)
        wide = width * size >= 4  # no processor stores less past the caches
        if width * size >= 16 and size == 2 and f.module.x86:
            part = _in_register(f, part)
        note = f", !nontemporal {f.module.note('i32 1')}" if wide else ""
        f.do(f"store {part.type} {part.ref}, ptr {at}, align {min(known, width * size)}{note}")


def _in_register(f: Function, v: Vec) -> Vec:
    """The same bits behind an empty instruction: a conversion that LLVM folds into a store would store plainly."""
    if not _one_register(f, 16 * v.lanes, 16):
        return v
    bits = Vec("i16", v.lanes, v.ref)
    if v.type != bits.type:
        bits = convert_bits(f, "bitcast", v, "i16")
    return Vec("i16", v.lanes, f.op(f'call {bits.type} asm "", "=v,0"({bits.type} {bits.ref})'))


def store_pieces(f: Function, dtype: DType, pointer: str, v: Vec, live: int) -> None:
    """A partial store as stores of powers of two."""
    size = dtype.bytes
    for start, width in _pieces(live):
        at = f.op(f"getelementptr i8, ptr {pointer}, i64 {start * size}") if start else pointer
        part = extract(f, v, start, width)
        f.do(f"store {part.type} {part.ref}, ptr {at}, align {size}")


def extract(f: Function, v: Vec, start: int, width: int) -> Vec:
    """Lanes ``start`` to ``start + width``."""
    if width == v.lanes:
        return v
    if width == 1:
        return Vec(v.kind, 1, f.op(f"extractelement {v.type} {v.ref}, i64 {start}"))
    order = ", ".join(f"i32 {start + i}" for i in range(width))
    return Vec(
        v.kind, width, f.op(f"shufflevector {v.type} {v.ref}, {v.type} poison, <{width} x i32> <{order}>")
    )


def insert(f: Function, v: Vec, lane: int, scalar: Vec) -> Vec:
    """Replace one lane."""
    return Vec(
        v.kind, v.lanes, f.op(f"insertelement {v.type} {v.ref}, {scalar.type} {scalar.ref}, i64 {lane}")
    )
