"""Scalar functions on values with a running error.

A ``Value`` carries its first-order error: how far any correct implementation may be away. Rules:
products |a|δb + |b|δa + δaδb, functions by their change over the error interval, and after every
rounding operation ulp·2u·|v|, plus the smallest normal number because units may flush subnormals.
float64 is itself rounded, so its own u is always added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from opc.dtypes import DType
from opc.scalar import FUNCTIONS, numpy_function
from opc.tensor.bound import Array
from opc.tensor.types import LIMITS

OWN = 2.0**-53  # roundoff of the oracle's float64
_SAMPLE = 64


@dataclass(frozen=True, slots=True)
class Mode:
    """How to evaluate: the float type of the computation, whether to carry errors, and whether to
    round where the program converts or stores.
    """

    dtype: np.dtype[np.generic]
    track: bool = False
    quantise: bool = False

    def numpy(self, dtype: DType) -> np.dtype[np.generic]:
        """The NumPy type that stands for ``dtype`` in computations."""
        if not dtype.is_float:
            return np.dtype(np.int64)
        return np.promote_types(self.dtype, np.float64) if dtype is DType.F64 else self.dtype


@dataclass(frozen=True, slots=True)
class Value:
    """Data, and the error bound of each element (None: exact). The data of a condition is boolean,
    its error marks where it is undecided.
    """

    data: Array
    error: Array | None = None


def total(*errors: Array | None) -> Array | None:
    """Sum of error bounds, None being zero."""
    result: Array | None = None
    for error in errors:
        if error is not None:
            result = error if result is None else result + error
    return result


def or_zero(error: Array | None) -> Array:
    """An error bound as an array."""
    return np.zeros(()) if error is None else error


def integral(data: Array, limit: float) -> bool:
    """Whether all elements are integers of magnitude at most ``limit``."""
    flat = data.reshape(-1)[:_SAMPLE]
    if not (np.rint(flat) == flat).all():
        return False
    return bool((np.abs(data) <= limit).all() and (np.rint(data) == data).all())


def representable(data: Array, dtype: DType) -> bool:
    """Whether every element is a normal number, zero or non-finite value of ``dtype``."""

    def fits(part: Array) -> bool:
        with np.errstate(over="ignore"):
            back = part.astype(dtype.numpy).astype(part.dtype)
        size = np.abs(part)
        return bool((((back == part) & ((size >= dtype.tiny) | (size == 0))) | np.isnan(part)).all())

    return fits(data.reshape(-1)[:_SAMPLE]) and fits(data)


def rounding(data: Array, dtype: DType, ulp: float = 0.5) -> Array:
    """Error of one rounding of ``data`` to ``dtype``."""
    error: Array = np.abs(data) * (2 * ulp * dtype.roundoff + OWN)
    error += dtype.tiny
    return error


def settle(value: Value, sure: Callable[[], Array], dtype: DType) -> Value:
    """Give non-finite elements and possible overflows their error: 0 where every implementation
    must agree (``sure``), else infinite.
    """
    data, error = value.data, value.error
    low, high = (data.min(), data.max()) if data.size else (0.0, 0.0)
    past = np.isnan(low) or -low > 0.99 * dtype.largest or high > 0.99 * dtype.largest
    if not past and (error is None or error.max() < 0.01 * dtype.largest):
        return value
    shape = np.broadcast_shapes(data.shape, np.shape(or_zero(error)))
    bound = np.array(np.broadcast_to(or_zero(error), shape))
    wide = np.broadcast_to(data, shape)
    finite = np.isfinite(wide)
    bound[np.isnan(bound) & finite] = np.inf
    over = finite & (np.abs(wide) + bound > dtype.largest) & ((bound > 0) | dtype.is_float)
    bound[over] = np.inf
    if not finite.all():
        agreed = np.broadcast_to(sure(), shape)
        bound[~finite] = np.where(agreed[~finite], 0.0, np.inf)
    return Value(data, bound)


def convert(value: Value, source: DType, target: DType, mode: Mode) -> Value:
    """An operand in the type of the operation: integers become floats where they meet one."""
    if source.is_float or not target.is_float:
        return Value(value.data.astype(mode.numpy(target), copy=False), value.error)
    data = value.data.astype(mode.numpy(target))
    error = value.error
    if mode.track and not integral(data, 1 / target.roundoff):
        error = total(error, rounding(data, target))
    return Value(data, error)


def cast(value: Value, source: DType, target: DType, mode: Mode, wary: bool = True) -> Value:
    """Conversion to ``target``: rounds to a float type, saturates to an integer type.

    ``wary`` makes the error infinite where the conversion may overflow; results leave that to ``check``.
    """
    if not target.is_float:
        return _to_integer(value, source, target, mode)
    value = convert(value, source, target, mode)
    if mode.quantise:
        return Value(value.data.astype(target.numpy).astype(mode.numpy(target)))
    if source is target:
        return value
    if not mode.track or (value.error is None and representable(value.data, target)):
        return value
    value = _rounded(value, target)
    return settle(value, lambda: np.isfinite(or_zero(value.error)), target) if wary else value


def _rounded(value: Value, target: DType) -> Value:
    """After rounding to ``target``; results below its normal range may be flushed."""
    size = np.abs(value.data) + or_zero(value.error)
    error = total(value.error, size * target.roundoff)
    assert error is not None
    small = size - 2 * or_zero(value.error) < target.tiny
    error = error + np.where(small, target.tiny, 0.0)
    return Value(value.data, np.where(np.isfinite(value.data), error, or_zero(value.error)))


def _to_integer(value: Value, source: DType, target: DType, mode: Mode) -> Value:
    low, high = LIMITS[target]

    def limit(data: Array) -> Array:
        if source.is_float:
            whole = np.rint(data) if target is DType.I8 else np.trunc(data)
            data = np.where(np.isnan(whole), 0, whole)
        clipped: Array = np.clip(data, low, high)
        return clipped

    data = limit(value.data)
    if value.error is None or not mode.track:
        return Value(data.astype(np.int64))
    spread = np.maximum(limit(value.data + value.error) - data, data - limit(value.data - value.error))
    spread = np.where(np.isnan(value.data) & np.isinf(value.error), np.inf, spread)
    return Value(data.astype(np.int64), spread if spread.any() else None)


def wrap(data: Array) -> Array:
    """Integers as 32-bit arithmetic leaves them."""
    wrapped: Array = ((data + 2**31) & (2**32 - 1)) - 2**31
    return wrapped


def apply(fn: str, args: Sequence[Value], dtype: DType, mode: Mode) -> Value:
    """Function ``fn`` (no cast) on operands already in ``dtype``, the type it computes in."""
    function = FUNCTIONS[fn]
    if function.kind == "compare":
        return _compare(fn, args[0], args[1], mode)
    if fn == "select":
        return _select(args[0], args[1], args[2], mode)
    data = numpy_function(fn)(*(a.data for a in args))
    if not dtype.is_float:
        data = wrap(data)
    if not mode.track:
        return Value(data)
    if all(a.error is None for a in args):
        if function.ulp == 0 or not dtype.is_float:
            return Value(data)
        exact = function.ulp == 0.5 and _exact(data, args, dtype)
        # Exact or not, an infinity is settled below: that of x / 0 has the sign of a zero, which may differ.
        error = np.zeros_like(data) if exact else rounding(data, dtype, function.ulp)
        if exact and np.isfinite(data).all():
            return Value(data)
    else:
        carried = _PROPAGATE[fn](data, [a.data for a in args], [or_zero(a.error) for a in args])
        error = carried
        if function.ulp and dtype.is_float:
            error = carried + rounding(np.abs(data) + carried, dtype, function.ulp)
    # A contracted multiplication may survive its overflow; everything else becomes infinite.
    certain = _overflows(data, error, dtype) if fn != "mul" and dtype is DType.F32 else np.False_
    finished = np.where(certain, np.copysign(np.inf, data), data) if certain.any() else data
    return settle(Value(finished, error), lambda: _sure(fn, args) | certain, dtype)


def _overflows(data: Array, error: Array, dtype: DType) -> Array:
    """Where a finite result certainly exceeds the range of ``dtype``."""
    over: Array = np.isfinite(data) & (np.abs(data) - error > dtype.largest * (1 + 2 * dtype.roundoff))
    return over


def _exact(data: Array, args: Sequence[Value], dtype: DType) -> bool:
    """Whether a correctly rounded function of exact operands had nothing to round."""
    if dtype is DType.F64:
        # float64 cannot tell; integers it keeps.
        return integral(data, 2.0**53) and all(integral(a.data, 2.0**53) for a in args)
    return representable(data, dtype)


def _compare(fn: str, a: Value, b: Value, mode: Mode) -> Value:
    data = numpy_function(fn)(a.data, b.data)
    error = total(a.error, b.error)
    if error is None or not mode.track:
        return Value(data)
    unsure = ((np.abs(a.data - b.data) <= error) & (error > 0)) | np.isinf(error)
    return Value(data, unsure if unsure.any() else None)


def _select(condition: Value, a: Value, b: Value, mode: Mode) -> Value:
    data = np.where(condition.data, a.data, b.data)
    if not mode.track or (condition.error is None and a.error is None and b.error is None):
        return Value(data)
    error = np.where(condition.data, or_zero(a.error), or_zero(b.error))
    if condition.error is not None:
        # Either branch is right: the bound spans both.
        same = (a.data == b.data) | (np.isnan(a.data) & np.isnan(b.data))
        apart = np.where(same, 0.0, np.abs(a.data - b.data))
        both = apart + or_zero(a.error) + or_zero(b.error)
        error = np.where(condition.error, np.where(np.isnan(both), np.inf, both), error)
    return Value(data, error)


def _sure(fn: str, args: Sequence[Value]) -> Array:
    """Where a non-finite result does not depend on rounding."""
    data, errors = [a.data for a in args], [or_zero(a.error) for a in args]
    known = np.logical_and.reduce(np.broadcast_arrays(*map(np.isfinite, errors)))
    special = ~np.logical_and.reduce(np.broadcast_arrays(*map(np.isfinite, data)))
    if fn in ("log", "sqrt", "rsqrt"):
        # Outside their domain for certain, or exactly at its edge (where rsqrt takes the sign of zero).
        edge = (errors[0] == 0) & ((data[0] != 0) | (fn != "rsqrt"))
        special = special | (data[0] + errors[0] < 0) | edge
    if fn == "exp":
        special = special | (data[0] - errors[0] > 710)  # past float64, so past every type
    if fn in ("mul", "div"):
        # The sign of a finite partner, and whether it is zero, must be certain.
        nan = np.isnan(data[0]) | np.isnan(data[1])
        for x, e in zip(data, errors, strict=True):
            known = known & (nan | (np.abs(x) > e) | (e == 0))
        if fn == "div":
            # Implementations differ in the sign of zero, so in that of x / 0; 0 / 0 is NaN for all.
            special = special | (data[1] == 0)
            known = known & (nan | (data[1] != 0) | (data[0] == 0))
    result: Array = known & special
    return result


def _mul(v: Array, x: list[Array], d: list[Array]) -> Array:
    result: Array = np.abs(x[0]) * d[1] + (np.abs(x[1]) + d[1]) * d[0]
    return result


def _div(v: Array, x: list[Array], d: list[Array]) -> Array:
    room = np.abs(x[1]) - d[1]
    spread = (d[0] + np.abs(v) * d[1]) / room
    # NaN, not inf, where nothing is known about a quotient that is itself not finite: settle decides.
    result: Array = np.where((room > 0) | ((room == 0) & (d[1] == 0)), spread, np.inf)
    return result


def _maximum(v: Array, x: list[Array], d: list[Array]) -> Array:
    return _hull(v, np.maximum(x[0] + d[0], x[1] + d[1]), np.maximum(x[0] - d[0], x[1] - d[1]), d)


def _minimum(v: Array, x: list[Array], d: list[Array]) -> Array:
    return _hull(v, np.minimum(x[0] + d[0], x[1] + d[1]), np.minimum(x[0] - d[0], x[1] - d[1]), d)


def _hull(v: Array, high: Array, low: Array, d: list[Array]) -> Array:
    """Distance to the ends of an interval; never more than the larger operand error."""
    reach = np.maximum(high - v, v - low) + 2 * OWN * np.abs(v)
    result: Array = np.fmin(reach, np.maximum(d[0], d[1]))
    return result


def _exp(v: Array, x: list[Array], d: list[Array]) -> Array:
    result: Array = v * np.expm1(d[0])
    return result


def _log(v: Array, x: list[Array], d: list[Array]) -> Array:
    result: Array = np.where(x[0] > d[0], -np.log1p(-d[0] / x[0]), np.inf)
    return result


def _sqrt(v: Array, x: list[Array], d: list[Array]) -> Array:
    low = x[0] - d[0]
    result: Array = np.where(
        low >= 0, d[0] / (v + np.sqrt(np.maximum(low, 0))), np.where(d[0] > 0, np.inf, 0.0)
    )
    return np.where(d[0] == 0, 0.0, result)


def _rsqrt(v: Array, x: list[Array], d: list[Array]) -> Array:
    low = x[0] - d[0]
    inside = 1 / np.sqrt(np.maximum(low, 0)) - v + 2 * OWN * v
    result: Array = np.where(d[0] == 0, 0.0, np.where(low > 0, inside, np.inf))
    return result


def _nearest(x: Array, d: Array) -> Array:
    """Magnitude of the point closest to 0 in x ± d, where sigmoid-like functions are steepest."""
    result: Array = np.maximum(np.abs(x) - d, 0.0)
    return result


def _slope(x: Array) -> Array:
    """Derivative of the sigmoid at x >= 0, without the cancellation of s·(1 - s)."""
    e = np.exp(-x)
    result: Array = e / (1 + e) ** 2
    return result


def _ranged(error: Array, d: Array, width: float) -> Array:
    """The error of a function whose values span ``width``. What is unknown may be NaN, which no range holds."""
    return np.where(np.isinf(d), np.inf, np.minimum(error, width))


def _tanh(v: Array, x: list[Array], d: list[Array]) -> Array:
    return _ranged(4 * d[0] * _slope(2 * _nearest(x[0], d[0])), d[0], 2.0)


def _erf(v: Array, x: list[Array], d: list[Array]) -> Array:
    return _ranged(d[0] * (2 / np.sqrt(np.pi)) * np.exp(-(_nearest(x[0], d[0]) ** 2)), d[0], 2.0)


def _sigmoid(v: Array, x: list[Array], d: list[Array]) -> Array:
    return _ranged(d[0] * _slope(_nearest(x[0], d[0])), d[0], 1.0)


def _sum(v: Array, x: list[Array], d: list[Array]) -> Array:
    result: Array = d[0] + d[1]
    return result


def _same(v: Array, x: list[Array], d: list[Array]) -> Array:
    return d[0]


_PROPAGATE: dict[str, Callable[[Array, list[Array], list[Array]], Array]] = {
    "add": _sum,
    "sub": _sum,
    "mul": _mul,
    "div": _div,
    "neg": _same,
    "abs": _same,
    "max": _maximum,
    "min": _minimum,
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
}
