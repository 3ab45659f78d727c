"""Tile instructions as LLVM functions, so that AMX programs can be executed and checked on any host."""

from __future__ import annotations

from opc.cpu.function import Function
from opc.dtypes import DType

_TILE = 1024
_ROW = 64

# Rows are copied byte by byte; speed does not matter here.
_MOVE = """\
define internal void @opc.tile.move(
  ptr %to, i64 %to_stride, ptr %from, i64 %from_stride, i64 %rows, i64 %bytes
) {
entry:
  br label %row
row:
  %r = phi i64 [ 0, %entry ], [ %rn, %row ]
  %to_at = mul i64 %r, %to_stride
  %from_at = mul i64 %r, %from_stride
  %a = getelementptr i8, ptr %to, i64 %to_at
  %b = getelementptr i8, ptr %from, i64 %from_at
  call void @llvm.memcpy.p0.p0.i64(ptr %a, ptr %b, i64 %bytes, i1 false)
  %rn = add i64 %r, 1
  %more = icmp ult i64 %rn, %rows
  br i1 %more, label %row, label %done
done:
  ret void
}
"""
_PRODUCTS = {
    DType.BF16: """\
  %x = load i16, ptr %pa, align 2
  %y = load i16, ptr %pb, align 2
  %x32 = zext i16 %x to i32
  %y32 = zext i16 %y to i32
  %xs = shl i32 %x32, 16
  %ys = shl i32 %y32, 16
  %xf = bitcast i32 %xs to float
  %yf = bitcast i32 %ys to float
  %old = load float, ptr %pc, align 4
  %product = fmul float %xf, %yf
  %new = fadd float %old, %product
  store float %new, ptr %pc, align 4
""",
    DType.I8: """\
  %x = load i8, ptr %pa, align 1
  %y = load i8, ptr %pb, align 1
  %x32 = sext i8 %x to i32
  %y32 = sext i8 %y to i32
  %old = load i32, ptr %pc, align 4
  %product = mul i32 %x32, %y32
  %new = add i32 %old, %product
  store i32 %new, ptr %pc, align 4
""",
}
_MULTIPLY = """\
define internal void @opc.tile.multiply.{name}(ptr %c, ptr %a, ptr %b, i64 %rows, i64 %columns, i64 %depth) {{
entry:
  %values = mul i64 %depth, {group}
  br label %m
m:
  %i = phi i64 [ 0, %entry ], [ %in, %mend ]
  br label %n
n:
  %j = phi i64 [ 0, %m ], [ %jn, %nend ]
  br label %k
k:
  %l = phi i64 [ 0, %n ], [ %ln, %k ]
  %pair = udiv i64 %l, {group}
  %part = urem i64 %l, {group}
  %ia = mul i64 %i, {row}
  %la = mul i64 %l, {size}
  %oa = add i64 %ia, %la
  %pa = getelementptr i8, ptr %a, i64 %oa
  %jc = mul i64 %j, 4
  %oc = add i64 %ia, %jc
  %pc = getelementptr i8, ptr %c, i64 %oc
  %kb = mul i64 %pair, {row}
  %gb = mul i64 %part, {size}
  %ob = add i64 %kb, %jc
  %ob2 = add i64 %ob, %gb
  %pb = getelementptr i8, ptr %b, i64 %ob2
{product}  %ln = add i64 %l, 1
  %lmore = icmp ult i64 %ln, %values
  br i1 %lmore, label %k, label %nend
nend:
  %jn = add i64 %j, 1
  %jmore = icmp ult i64 %jn, %columns
  br i1 %jmore, label %n, label %mend
mend:
  %in = add i64 %i, 1
  %imore = icmp ult i64 %in, %rows
  br i1 %imore, label %m, label %done
done:
  ret void
}}
"""


def declare(f: Function) -> str:
    """Memory that stands for the tile registers of one phase, and the functions on it."""
    f.module.define("opc.tile.move", _MOVE)
    f.module.declare("llvm.memcpy.p0.p0.i64", "void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    return f.alloca("i8", 8 * _TILE, 64)


def _tile(f: Function, storage: str, number: int) -> str:
    return f.op(f"getelementptr i8, ptr {storage}, i64 {number * _TILE}")


def zero(f: Function, storage: str, number: int) -> None:
    """As tilezero."""
    f.call(
        "llvm.memset.p0.i64",
        "void",
        [_tile(f, storage, number), "0", str(_TILE), "false"],
        ["ptr", "i8", "i64", "i1"],
    )


def load(f: Function, storage: str, number: int, pointer: str, stride: str, shape: tuple[int, int]) -> None:
    """As tileloadd."""
    _move(f, _tile(f, storage, number), str(_ROW), pointer, stride, shape)


def store(f: Function, storage: str, number: int, pointer: str, stride: str, shape: tuple[int, int]) -> None:
    """As tilestored."""
    _move(f, pointer, stride, _tile(f, storage, number), str(_ROW), shape)


def _move(f: Function, to: str, to_stride: str, source: str, stride: str, shape: tuple[int, int]) -> None:
    ends = f"ptr {to}, i64 {to_stride}, ptr {source}, i64 {stride}"
    f.do(f"call void @opc.tile.move({ends}, i64 {shape[0]}, i64 {shape[1]})")


def multiply(f: Function, storage: str, tiles: list[int], shape: tuple[int, int, int], dtype: DType) -> None:
    """tdpbf16ps or tdpbssd: ``shape`` is (rows, columns, groups)."""
    text = _MULTIPLY.format(
        name=dtype, group=4 // dtype.bytes, size=dtype.bytes, row=_ROW, product=_PRODUCTS[dtype]
    )
    f.module.define(f"opc.tile.multiply.{dtype}", text)
    c, a, b = (_tile(f, storage, n) for n in tiles)
    extents = ", ".join(f"i64 {e}" for e in shape)
    f.do(f"call void @opc.tile.multiply.{dtype}(ptr {c}, ptr {a}, ptr {b}, {extents})")
