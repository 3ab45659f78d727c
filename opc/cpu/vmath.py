"""Vectorised elementary functions as LLVM IR, for f32 and f64.

Branch-free, so every lane costs the same. Arguments are reduced with a two-part constant. Polynomials of
f64 come from the functions' own series (the tail of erf from a Chebyshev fit), those of f32, which are
shorter, from fits that balance the relative error over the interval. Each function meets the ulp that
``opc.scalar`` states. NaN and infinities go through; results that underflow are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opc.cpu.function import Function
from opc.cpu.values import Vec, binary, compare, convert_bits, intrinsic, multiply_add, select, splat, unary

# (exp(r) - 1 - r) / r² on |r| <= ln 2 / 2.
_EXP_F32 = (0.5, 0.16666576266288757, 0.04166685417294502, 0.008363200351595879, 0.0013901307247579098)
# (2^r - 1) / r on |r| <= 1/2.
_EXP2_F32 = (
    0.6931471228599548,
    0.2402234971523285,
    0.05550500750541687,
    0.009666341356933117,
    0.0013333535753190517,
)
# erf(x) / x - 1 in x² on [0, 1].
_ERF_NEAR_F32 = (
    0.12837916612625122,
    -0.3761262595653534,
    0.1128358542919159,
    -0.026853810995817184,
    0.005188327748328447,
    -0.0008010192541405559,
    7.85385855124332e-05,
)
# The base-2 logarithm of 1 - erf(x) on [1, 4], its error weighed by 1 - erf(x).
_ERF_FAR_F32 = (
    -0.0008747474057599902,
    -1.624449610710144,
    -0.923378586769104,
    -0.14630764722824097,
    0.030299101024866104,
    -0.003941350616514683,
    0.00023614565725438297,
)
# erfc(x)·exp(x²) on [1, 6], in 1/(x + 3) scaled to [-1, 1].
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
    """Figures of a floating-point format and the polynomials it needs."""

    bits: str  # the integer type of the same size
    fraction: int
    bias: int
    log2_high: float  # ln 2 with trailing zeros, so that a multiple by an exponent is exact
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r²
    log_terms: int
    overflow: float  # exp is infinite from here on
    underflow: float  # and 0 from here down
    saturated: float  # tanh(x) is 1 for x >= saturated


_EXP_F64 = tuple(1 / math.factorial(k) for k in range(2, 15))
_FORMATS = {
    "f32": _Format("i32", 23, 127, 0.693145751953125, _EXP_F32, 5, 89.0, -105.0, 10.0),
    "f64": _Format("i64", 52, 1023, float.fromhex("0x1.62e42fee00000p-1"), _EXP_F64, 11, 710.0, -746.0, 20.0),
}
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
    for test, limit in (("ogt", low), ("olt", high)):
        bound = _number(x, limit)
        x = select(f, compare(f, f"fcmp {test}", bound, x), bound, x)
    return x


def _quotient(f: Function, x: Vec, offset: int) -> tuple[Vec, Vec]:
    """The rounded quotient x / ln 2: as a float, and with ``offset`` added in the low bits of an integer."""
    # Adding this leaves the rounded quotient in the low bits, without a conversion that NaN would make
    # undefined.
    magic = _number(x, 1.5 * 2.0 ** _FORMATS[x.kind].fraction + offset)
    shifted = multiply_add(f, x, _number(x, 1 / math.log(2)), magic)
    return binary(f, "fsub", shifted, magic), convert_bits(f, "bitcast", shifted, _FORMATS[x.kind].bits)


def _remainder(f: Function, x: Vec, n: Vec) -> Vec:
    """What n ln 2 leaves of x."""
    fmt = _FORMATS[x.kind]
    r = multiply_add(f, n, _number(x, -fmt.log2_high), x)
    return multiply_add(f, n, _number(x, -_log2_low(fmt)), r)


def _exp(f: Function, x: Vec) -> Vec:
    fmt = _FORMATS[x.kind]
    x = _clamp(f, x, fmt.underflow, fmt.overflow)
    # Two powers of 2 whose biased exponents add up to n plus two biases: a subnormal result is rounded once,
    # and an overflowing one becomes infinite. What the shift left pushes out is not part of them.
    n, bits = _quotient(f, x, 2 * fmt.bias)
    r = _remainder(f, x, n)
    value = _polynomial(f, r, (1.0, 1.0, *fmt.exp))
    half = binary(f, "lshr", bits, _integer(x, 1))
    for exponent in (half, binary(f, "sub", bits, half)):
        power = binary(f, "shl", exponent, _integer(x, fmt.fraction))
        value = binary(f, "fmul", value, convert_bits(f, "bitcast", power, x.kind))
    return value


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
    magnitude = _at_most(f, intrinsic(f, "fabs", x), fmt.saturated)
    twice = binary(f, "fadd", magnitude, magnitude)
    n, bits = _quotient(f, twice, fmt.bias)
    r = _remainder(f, twice, n)
    less_one = multiply_add(f, binary(f, "fmul", r, r), _polynomial(f, r, fmt.exp), r)
    power = convert_bits(f, "bitcast", binary(f, "shl", bits, _integer(x, fmt.fraction)), x.kind)
    t = multiply_add(f, power, less_one, binary(f, "fsub", power, _number(x, 1)))
    return _with_sign(f, binary(f, "fdiv", t, binary(f, "fadd", t, _number(x, 2))), x)


def _at_most(f: Function, x: Vec, high: float) -> Vec:
    """The smaller of the two; NaN stays."""
    bound = _number(x, high)
    return select(f, compare(f, "fcmp olt", bound, x), bound, x)


def _with_sign(f: Function, value: Vec, x: Vec) -> Vec:
    return intrinsic(f, "copysign", value, x)


def _sigmoid(f: Function, x: Vec) -> Vec:
    """From exp of a non-positive number, so neither side overflows."""
    e = _exp(f, unary(f, "fneg", intrinsic(f, "fabs", x)))
    top = select(f, compare(f, "fcmp olt", x, _number(x, 0)), e, _number(x, 1))
    return binary(f, "fdiv", top, binary(f, "fadd", e, _number(x, 1)))


def _erf(f: Function, x: Vec) -> Vec:
    magnitude = intrinsic(f, "fabs", x)
    value = _erf_f32(f, magnitude) if x.kind == "f32" else _erf_f64(f, magnitude)
    return _with_sign(f, value, x)


def _erf_f32(f: Function, x: Vec) -> Vec:
    """Of a positive number: x + x·p(x²) up to 1, beyond it 1 - 2^q(x)."""
    x = _at_most(f, x, 4.0)
    near = multiply_add(f, x, _polynomial(f, binary(f, "fmul", x, x), _ERF_NEAR_F32), x)
    y = _polynomial(f, x, _ERF_FAR_F32)
    magic = _number(x, 1.5 * 2.0**23 + 127)
    shifted = binary(f, "fadd", y, magic)
    r = binary(f, "fsub", y, binary(f, "fsub", shifted, magic))
    power = binary(f, "shl", convert_bits(f, "bitcast", shifted, "i32"), _integer(x, 23))
    power = convert_bits(f, "bitcast", power, "f32")
    tail = binary(f, "fmul", power, _polynomial(f, r, (1.0, *_EXP2_F32)))
    far = binary(f, "fsub", _number(x, 1), tail)
    return select(f, compare(f, "fcmp ogt", x, _number(x, 1)), far, near)


def _erf_f64(f: Function, x: Vec) -> Vec:
    """Of a positive number: the series up to 1; beyond, 1 - exp(-x²)·g(x) with g smooth."""
    end, shift = 6.0, 3.0
    x = _at_most(f, x, end)
    square = binary(f, "fmul", x, x)
    factor = 2 / math.sqrt(math.pi)
    # The leading 1 is split off the series: x + x·(rest) rounds once where the result is near x·1.128.
    series = [factor * (-1) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(19)]
    near = multiply_add(f, x, _polynomial(f, square, [factor - 1, *series[1:]]), x)
    first, last = 1 / (1 + shift), 1 / (end + shift)
    t = binary(f, "fdiv", _number(x, 2 / (first - last)), binary(f, "fadd", x, _number(x, shift)))
    u = binary(f, "fsub", t, _number(x, (first + last) / (first - last)))
    tail = binary(f, "fmul", _polynomial(f, u, _TAIL_F64), _exp(f, unary(f, "fneg", square)))
    far = binary(f, "fsub", _number(x, 1), tail)
    return select(f, compare(f, "fcmp ogt", x, _number(x, 1)), far, near)


_FUNCTIONS = {
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
}
