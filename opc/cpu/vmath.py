"""Vectorised elementary functions as LLVM IR, for f32 and f64.

Branch-free, so every lane costs the same. Arguments are reduced with a two-part constant, polynomials
come from the functions' own series (the tail of erf from a Chebyshev fit), and each function meets the
ulp that ``opc.scalar`` states. NaN and infinities go through; results that underflow are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opc.cpu.function import Function
from opc.cpu.values import Vec, binary, compare, convert_bits, intrinsic, multiply_add, select, splat, unary

_TAIL_F32 = (
    0.25539567631050575,
    0.1423953299228289,
    0.026850911280617798,
    0.0029247520788123972,
    4.607866369061166e-05,
    -2.802938325549644e-05,
    -1.1494861984942571e-06,
)
_TAIL_F64 = (
    0.20798329133342885,
    0.15436117429436919,
    0.0496984454033948,
    0.012713147695691995,
    0.0024793146970724187,
    0.00033160296057845436,
    1.956358330834969e-05,
    -2.4255574811020284e-06,
    -5.541277438329464e-07,
    4.526722197970927e-09,
    1.1340261055840323e-08,
    2.6378817019432074e-10,
    -2.5809703293704675e-10,
    -6.030100178315267e-12,
    6.716060821011204e-12,
    -4.468786282795809e-15,
    -1.6799777159311457e-13,
)


@dataclass(frozen=True, slots=True)
class _Format:
    """Figures of a floating-point format and the polynomial lengths it needs."""

    bits: str  # the integer type of the same size
    fraction: int
    bias: int
    log2_high: float  # ln 2 with trailing zeros, so that a multiple by an exponent is exact
    exp_terms: int
    log_terms: int
    erf_terms: int
    overflow: float  # exp is infinite from here on
    underflow: float  # and 0 from here down
    saturated: float  # tanh(x) is 1 for x >= saturated
    tail_end: float  # erf(x) is 1 for x >= tail_end
    tail_shift: float
    tail: tuple[float, ...]  # erfc(x)·exp(x²) on [1, tail_end], in u = 1/(x + tail_shift) scaled to [-1, 1]


_FORMATS = {
    "f32": _Format("i32", 23, 127, 0.693145751953125, 8, 5, 11, 89.0, -105.0, 10.0, 4.0, 2.0, _TAIL_F32),
    "f64": _Format(
        "i64", 52, 1023, float.fromhex("0x1.62e42fee00000p-1"), 14, 11, 19, 710.0, -746.0, 20.0, 6.0, 3.0,
        _TAIL_F64,
    ),
}  # fmt: skip
_LN2 = "0.693147180559945309417232121458176568"


def emit(f: Function, name: str, x: Vec) -> Vec:
    """``name`` of a float vector, within the ulp of ``opc.scalar``."""
    return _FUNCTIONS[name](f, x)


def _number(x: Vec, value: float) -> Vec:
    return splat(x.kind, x.lanes, value)


def _integer(x: Vec, value: int) -> Vec:
    return splat(_FORMATS[x.kind].bits, x.lanes, value)


def _polynomial(f: Function, x: Vec, coefficients: Sequence[float]) -> Vec:
    """Horner's rule; the lowest coefficient first."""
    total = _number(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = multiply_add(f, total, x, _number(x, c))
    return total


def _log2_low(fmt: _Format) -> float:
    from fractions import Fraction

    return float(Fraction(_LN2) - Fraction(fmt.log2_high))


def _clamp(f: Function, x: Vec, low: float, high: float) -> Vec:
    """Into [low, high]; NaN stays, because the comparisons fail."""
    x = select(f, compare(f, "fcmp olt", x, _number(x, low)), _number(x, low), x)
    return select(f, compare(f, "fcmp ogt", x, _number(x, high)), _number(x, high), x)


def _reduced(f: Function, x: Vec) -> tuple[Vec, Vec, Vec]:
    """(exponent n as integers, r, exp(r) - 1) with x = n ln 2 + r and |r| <= ln 2 / 2."""
    fmt = _FORMATS[x.kind]
    # Adding this leaves the rounded quotient in the low bits, without a conversion that NaN would make
    # undefined.
    magic = _number(x, 1.5 * 2.0**fmt.fraction)
    shifted = multiply_add(f, x, _number(x, 1 / math.log(2)), magic)
    n = binary(f, "fsub", shifted, magic)
    exponent = binary(
        f, "sub", convert_bits(f, "bitcast", shifted, fmt.bits), convert_bits(f, "bitcast", magic, fmt.bits)
    )
    r = multiply_add(f, n, _number(x, -fmt.log2_high), x)
    r = multiply_add(f, n, _number(x, -_log2_low(fmt)), r)
    series = _polynomial(f, r, [1 / math.factorial(k) for k in range(2, fmt.exp_terms + 1)])
    return exponent, r, multiply_add(f, binary(f, "fmul", r, r), series, r)


def _power(f: Function, x: Vec, exponent: Vec) -> Vec:
    """2 to an integer within the normal range."""
    fmt = _FORMATS[x.kind]
    biased = binary(f, "add", exponent, _integer(x, fmt.bias))
    return convert_bits(f, "bitcast", binary(f, "shl", biased, _integer(x, fmt.fraction)), x.kind)


def _exp(f: Function, x: Vec) -> Vec:
    fmt = _FORMATS[x.kind]
    x = _clamp(f, x, fmt.underflow, fmt.overflow)
    exponent, _, less_one = _reduced(f, x)
    value = binary(f, "fadd", less_one, _number(x, 1))
    # In two steps, so that a subnormal result is rounded once and an overflowing one becomes infinite.
    half = binary(f, "ashr", exponent, _integer(x, 1))
    value = binary(f, "fmul", value, _power(f, x, half))
    return binary(f, "fmul", value, _power(f, x, binary(f, "sub", exponent, half)))


def _log(f: Function, x: Vec) -> Vec:
    fmt = _FORMATS[x.kind]
    small = compare(f, "fcmp olt", x, _number(x, 2.0 ** (1 - fmt.bias)))
    normal = select(f, small, binary(f, "fmul", x, _number(x, 2.0**fmt.fraction)), x)
    bits = convert_bits(f, "bitcast", normal, fmt.bits)
    # The fraction is taken relative to sqrt(1/2), so that log of numbers near 1 has exponent 0.
    root = convert_bits(f, "bitcast", _number(x, math.sqrt(0.5)), fmt.bits)
    exponent = binary(f, "ashr", binary(f, "sub", bits, root), _integer(x, fmt.fraction))
    fraction = binary(f, "sub", bits, binary(f, "shl", exponent, _integer(x, fmt.fraction)))
    exponent = binary(f, "sub", exponent, select(f, small, _integer(x, fmt.fraction), _integer(x, 0)))
    k = _small_integer(f, x, exponent)
    y = binary(f, "fsub", convert_bits(f, "bitcast", fraction, x.kind), _number(x, 1))
    s = binary(f, "fdiv", y, binary(f, "fadd", y, _number(x, 2)))
    z = binary(f, "fmul", s, s)
    rest = binary(f, "fmul", z, _polynomial(f, z, [2 / (2 * i + 3) for i in range(fmt.log_terms)]))
    half = binary(f, "fmul", binary(f, "fmul", y, y), _number(x, 0.5))
    low = binary(f, "fmul", k, _number(x, _log2_low(fmt)))
    inner = multiply_add(f, s, binary(f, "fadd", half, rest), low)
    tail = binary(f, "fsub", binary(f, "fsub", half, inner), y)
    value = binary(f, "fsub", binary(f, "fmul", k, _number(x, fmt.log2_high)), tail)
    return _log_special(f, x, value)


def _small_integer(f: Function, x: Vec, value: Vec) -> Vec:
    """An exponent as a float: 64-bit integers have no vector conversion before AVX-512."""
    fmt = _FORMATS[x.kind]
    magic = _number(x, 1.5 * 2.0**fmt.fraction)
    bits = binary(f, "add", value, convert_bits(f, "bitcast", magic, fmt.bits))
    return binary(f, "fsub", convert_bits(f, "bitcast", bits, x.kind), magic)


def _log_special(f: Function, x: Vec, value: Vec) -> Vec:
    value = select(f, compare(f, "fcmp oeq", x, _number(x, math.inf)), x, value)
    value = select(f, compare(f, "fcmp oeq", x, _number(x, 0)), _number(x, -math.inf), value)
    value = select(f, compare(f, "fcmp olt", x, _number(x, 0)), _number(x, math.nan), value)
    return select(f, compare(f, "fcmp uno", x, x), x, value)


def _sqrt(f: Function, x: Vec) -> Vec:
    return intrinsic(f, "sqrt", x)


def _rsqrt(f: Function, x: Vec) -> Vec:
    return binary(f, "fdiv", _number(x, 1), intrinsic(f, "sqrt", x))


def _tanh(f: Function, x: Vec) -> Vec:
    """As t / (t + 2) with t = exp(2 |x|) - 1, which is accurate near 0."""
    fmt = _FORMATS[x.kind]
    magnitude = _clamp(f, intrinsic(f, "fabs", x), 0.0, fmt.saturated)
    exponent, _, less_one = _reduced(f, binary(f, "fadd", magnitude, magnitude))
    power = _power(f, x, exponent)
    t = multiply_add(f, power, less_one, binary(f, "fsub", power, _number(x, 1)))
    return _with_sign(f, binary(f, "fdiv", t, binary(f, "fadd", t, _number(x, 2))), x)


def _with_sign(f: Function, value: Vec, x: Vec) -> Vec:
    return intrinsic(f, "copysign", value, x)


def _sigmoid(f: Function, x: Vec) -> Vec:
    """From exp of a non-positive number, so neither side overflows."""
    e = _exp(f, unary(f, "fneg", intrinsic(f, "fabs", x)))
    top = select(f, compare(f, "fcmp olt", x, _number(x, 0)), e, _number(x, 1))
    return binary(f, "fdiv", top, binary(f, "fadd", e, _number(x, 1)))


def _erf(f: Function, x: Vec) -> Vec:
    """The series up to 1; beyond, 1 - exp(-x²)·g(x) with g smooth."""
    fmt = _FORMATS[x.kind]
    magnitude = _clamp(f, intrinsic(f, "fabs", x), 0.0, fmt.tail_end)
    square = binary(f, "fmul", magnitude, magnitude)
    factor = 2 / math.sqrt(math.pi)
    # The leading 1 is split off the series: x + x·(rest) rounds once where the result is near x·1.128.
    series = [factor * (-1) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(fmt.erf_terms)]
    near = multiply_add(f, magnitude, _polynomial(f, square, [factor - 1, *series[1:]]), magnitude)
    first, last = 1 / (1 + fmt.tail_shift), 1 / (fmt.tail_end + fmt.tail_shift)
    t = binary(
        f, "fdiv", _number(x, 2 / (first - last)), binary(f, "fadd", magnitude, _number(x, fmt.tail_shift))
    )
    u = binary(f, "fsub", t, _number(x, (first + last) / (first - last)))
    tail = binary(f, "fmul", _polynomial(f, u, fmt.tail), _exp(f, unary(f, "fneg", square)))
    far = binary(f, "fsub", _number(x, 1), tail)
    return _with_sign(f, select(f, compare(f, "fcmp olt", magnitude, _number(x, 1)), near, far), x)


_FUNCTIONS = {
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
}
