"""Scalar functions on vectors: IEEE arithmetic without fast-math flags, NaN through max and min."""

from __future__ import annotations

import math
from collections.abc import Sequence

from opc.cpu import vmath
from opc.cpu.function import Function
from opc.cpu.values import Vec, binary, compare, intrinsic, select, splat, to_kind, unary
from opc.scalar import FUNCTIONS

_ARITHMETIC = {
    "add": ("fadd", "add"),
    "sub": ("fsub", "sub"),
    "mul": ("fmul", "mul"),
}
_COMPARE = {
    "lt": ("fcmp olt", "icmp slt"),
    "le": ("fcmp ole", "icmp sle"),
    "gt": ("fcmp ogt", "icmp sgt"),
    "ge": ("fcmp oge", "icmp sge"),
    "eq": ("fcmp oeq", "icmp eq"),
    "ne": ("fcmp une", "icmp ne"),
}
# Vector bytes: the feature and the intrinsics of a maximum that keeps its second operand's NaN.
_EXTREMES = {32: ("avx2", "avx.{0}.{1}.256", ()), 64: ("avx512f", "avx512.{0}.{1}.512", ("4",))}
Value = Vec | float | int  # a number is a literal operand, typed by its neighbours


def apply(f: Function, op: str, operands: Sequence[Value], kind: str, lanes: int) -> Vec:
    """``op`` on operands converted to ``kind``; comparisons give conditions."""
    if op == "select":
        condition = _typed(f, operands[0], kind, lanes, "i1")
        return select(f, condition, *(_typed(f, v, kind, lanes) for v in operands[1:]))
    if op in ("max", "min"):
        return _extreme(f, op, operands, kind, lanes)
    typed = [_typed(f, v, kind, lanes) for v in operands]
    integer = kind == "i32"
    if op in _ARITHMETIC:
        return binary(f, _ARITHMETIC[op][integer], typed[0], typed[1])
    if op in _COMPARE:
        return compare(f, _COMPARE[op][integer], typed[0], typed[1])
    if op == "fma":
        if integer:
            return binary(f, "add", binary(f, "mul", typed[0], typed[1]), typed[2])
        return intrinsic(f, "fma", *typed)
    if op == "div":
        return _divide(f, typed[0], typed[1])
    if op == "neg":
        return binary(f, "sub", splat(kind, lanes, 0), typed[0]) if integer else unary(f, "fneg", typed[0])
    if op == "abs":
        if not integer:
            return intrinsic(f, "fabs", typed[0])
        return intrinsic(f, "smax", typed[0], binary(f, "sub", splat(kind, lanes, 0), typed[0]))
    return vmath.emit(f, op, typed[0])


def compute_kind(op: str, kinds: Sequence[str], literals: Sequence[float | int], fallback: str) -> str:
    """Type in which ``op`` computes: operands promoted, a float literal lifts integers."""
    order = ("i32", "f32", "f64")
    found = list(kinds)
    if not found:
        found = [fallback]
    elif any(isinstance(v, float) for v in literals):
        found.append("f32")
    kind = max(found, key=order.index)
    return "f32" if kind == "i32" and op in FUNCTIONS and FUNCTIONS[op].kind == "float" else kind


def _typed(f: Function, v: Value, kind: str, lanes: int, wanted: str = "") -> Vec:
    wanted = wanted or kind
    if isinstance(v, Vec):
        return to_kind(f, v, wanted)
    return splat(wanted, lanes, v)


def _divide(f: Function, a: Vec, b: Vec) -> Vec:
    """The quotient; of integers in f64, which is exact enough to round like the true quotient and never
    traps.
    """
    if a.kind == "i32":
        a, b = to_kind(f, a, "f64"), to_kind(f, b, "f64")
    return binary(f, "fdiv", a, b)


def _extreme(f: Function, op: str, operands: Sequence[Value], kind: str, lanes: int) -> Vec:
    if len(operands) > 2:
        return extreme_of(f, op, [_typed(f, v, kind, lanes) for v in operands])
    a, b = operands
    if isinstance(a, int | float) and isinstance(b, Vec):
        a, b = b, a
    test = "ogt" if op == "max" else "olt"
    if kind == "i32":
        return intrinsic(f, "s" + op, _typed(f, a, kind, lanes), _typed(f, b, kind, lanes))
    if isinstance(b, int | float) and not math.isnan(b):
        # One instruction: the comparison fails for NaN, so NaN is kept.
        x, limit = _typed(f, a, kind, lanes), splat(kind, lanes, b)
        return select(f, compare(f, f"fcmp {test}", limit, x), limit, x)
    x, y = _typed(f, a, kind, lanes), _typed(f, b, kind, lanes)
    return extreme(f, test, x, y)


def extreme(f: Function, test: str, x: Vec, y: Vec) -> Vec:
    """The max (``ogt``) or min (``olt``) of floats where a NaN on either side wins."""
    larger = _vector_extreme(f, test, x, y)
    return select(f, compare(f, "fcmp uno", x, x), x, larger)


def extreme_of(f: Function, op: str, terms: Sequence[Vec]) -> Vec:
    """The max or min of several vectors of floats. One comparison finds a NaN in either of two, so that most terms
    cost one and a half instructions instead of three.
    """
    test = "ogt" if op == "max" else "olt"
    found, rest = terms[0], terms[1:]
    if len(rest) == 1:
        return extreme(f, test, rest[0], found)
    for x in rest:
        found = _vector_extreme(f, test, x, found)  # keeps a NaN that is there already
    unordered = compare(f, "fcmp uno", rest[0], rest[1])
    for x, y in zip(rest[2::2], [*rest[3::2], rest[-1]], strict=False):
        unordered = binary(f, "or", unordered, compare(f, "fcmp uno", x, y))
    return select(f, unordered, splat(found.kind, found.lanes, math.nan), found)


def _vector_extreme(f: Function, test: str, x: Vec, y: Vec) -> Vec:
    """``x`` where the test holds, else ``y``: one instruction, which LLVM does not find for vectors once it
    has merged this comparison with the next.
    """
    feature, name, mode = _EXTREMES.get(x.lanes * (4 if x.kind == "f32" else 8), ("", "", ()))
    if not f.module.x86 or feature not in f.module.features:
        return select(f, compare(f, f"fcmp {test}", x, y), x, y)
    name = name.format("max" if test == "ogt" else "min", "ps" if x.kind == "f32" else "pd")
    types = [x.type, y.type, *("i32" for _ in mode)]
    return Vec(x.kind, x.lanes, f.call(f"llvm.x86.{name}", x.type, [x.ref, y.ref, *mode], types))
