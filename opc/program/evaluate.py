"""What each opcode computes, on NumPy views: the numeric half of the program interpreter.

Elementwise functions are evaluated in the compute type of their operands and rounded once when stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from math import copysign, inf, isfinite, prod
from typing import Any

from opc.dtypes import DType, promote
from opc.scalar import FUNCTIONS, numpy_function

Array = Any  # np.ndarray of any element type


def convert(values: Array, to: DType) -> Array:
    """Round to a type: floats to nearest even; i8 to nearest even, i32 toward zero, both saturating,
    NaN to 0.
    """
    import numpy as np

    values = np.asarray(values)
    if values.dtype == to.numpy:
        return values
    if to.is_float or values.dtype == np.bool_:
        return values.astype(to.numpy)
    limits = np.iinfo(np.int8 if to is DType.I8 else np.int32)
    if values.dtype.kind == "i":
        return np.clip(values, limits.min, limits.max).astype(to.numpy)
    wide = values.astype(np.float64)
    whole = np.rint(wide) if to is DType.I8 else np.trunc(wide)
    return np.clip(np.where(np.isnan(whole), 0, whole), limits.min, limits.max).astype(to.numpy)


def compute_type(dtypes: Sequence[DType], literals: Sequence[float | int], target: DType) -> DType:
    """The type an expression is evaluated in: operands promoted; a float literal lifts integers."""
    kinds = [d.compute for d in dtypes]
    if not kinds:
        return target.compute
    if any(isinstance(v, float) for v in literals):
        kinds.append(DType.F32)
    return reduce(promote, kinds)


def elementwise(op: str, operands: Sequence[Array], kind: DType) -> Array:
    """A vector function of operands that are converted to ``kind`` first; ``select`` keeps its condition."""
    import numpy as np

    if op == "copy":
        return operands[0]
    if op == "select":
        return np.where(operands[0] != 0, operands[1].astype(kind.numpy), operands[2].astype(kind.numpy))
    if op == "fma":
        return multiply_add(*(x.astype(kind.numpy) for x in operands))
    if FUNCTIONS[op].kind == "float" and not kind.is_float:
        kind = DType.F32
    return numpy_function(op)(*(x.astype(kind.numpy) for x in operands))


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` with one rounding; integers wrap."""
    import numpy as np

    if a.dtype.kind != "f":
        return a * b + c
    if a.dtype == np.float64:
        return np.asarray(np.frompyfunc(_fused, 3, 1)(a, b, c), np.float64)
    # A product of two f32 is exact in f64. Their sum is not: rounded to odd, it rounds to f32 as the exact one does.
    product, wide = a.astype(np.float64) * b, c.astype(np.float64)
    total = np.asarray(product + wide)
    moved = total - product
    error = (product - (total - moved)) + (wide - moved)
    even = (total.view(np.int64) & 1) == 0
    inexact = np.isfinite(total) & (error != 0)
    total = np.where(inexact & even, np.nextafter(total, np.copysign(np.inf, error)), total)
    return total.astype(a.dtype)


def _fused(a: float, b: float, c: float) -> float:
    """``a * b + c`` of f64 with one rounding."""
    if not (isfinite(a) and isfinite(b)):
        return a * b + c
    if not isfinite(c):
        return c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # with the sign that a zero has
    try:
        return float(exact)
    except OverflowError:
        return copysign(inf, exact)


def drain(values: Array, forms: Sequence[str], extra: Sequence[Array]) -> Array:
    """The forms of a scale.drain in order; "scale" and "shift" take the next extra operand."""
    import numpy as np

    operands = iter(extra)
    for form in forms:
        if form == "relu":
            values = np.maximum(values, 0)
        elif form == "scale":
            values = values * next(operands)
        elif form == "shift":
            values = values + next(operands)
    return values


class Contraction:
    """``dst = sum a·b`` as one batched matrix product; dims are given as sets of names per operand."""

    def __init__(
        self, dims: Sequence[tuple[str, int]], a: frozenset[str], b: frozenset[str], dst: frozenset[str]
    ) -> None:
        self.extents = dict(dims)
        names = [n for n, _ in dims]
        self.kept = [n for n in names if n in dst]
        self.batch = [n for n in self.kept if n in a and n in b]
        self.rows = [n for n in self.kept if n in a and n not in b]
        self.columns = [n for n in self.kept if n in b and n not in a]
        self.inner = [n for n in names if n not in dst and n in a and n in b]
        self.a_dims = [*self.batch, *self.rows, *self.inner]
        self.b_dims = [*self.batch, *self.inner, *self.columns]
        self.a_only = [n for n in names if n not in dst and n in a and n not in b]
        self.b_only = [n for n in names if n not in dst and n in b and n not in a]
        order = [*self.batch, *self.rows, *self.columns]
        self.missing = [n for n in self.kept if n not in order]
        order += self.missing
        self.order = [order.index(n) for n in self.kept]

    def size(self, names: Sequence[str]) -> int:
        return prod(self.extents[n] for n in names)

    def __call__(self, a: Array, b: Array, kind: DType) -> Array:
        """``a`` has axes ``a_dims + a_only``, ``b`` has ``b_dims + b_only``; the result has ``kept``."""
        import numpy as np

        wide = a.dtype.kind == "i" and np.dtype(np.float64 if a.dtype.itemsize == 1 else np.int64)
        work = wide or kind.numpy
        a, b = a.astype(work), b.astype(work)
        a = a.sum(axis=tuple(range(len(self.a_dims), a.ndim))) if self.a_only else a
        b = b.sum(axis=tuple(range(len(self.b_dims), b.ndim))) if self.b_only else b
        batch, inner = self.size(self.batch), self.size(self.inner)
        result = a.reshape(batch, -1, inner) @ b.reshape(batch, inner, -1)
        if wide:
            # Wrap like the 32-bit accumulator; i8 products are exact in f64.
            result = result.astype(np.int64).astype(np.int32)
        shape = [self.extents[n] for n in (*self.batch, *self.rows, *self.columns)] + [1] * len(self.missing)
        result = result.reshape(shape).transpose(self.order)
        return np.broadcast_to(result, [self.extents[n] for n in self.kept])


def reduce_plain(op: str, values: Array, axes: tuple[int, ...], old: Array | None) -> Array:
    """Sum, max or min over ``axes``, merged with ``old``."""
    import numpy as np

    if op == "sum":
        total = values.sum(axis=axes, dtype=values.dtype)
        return total if old is None else old + total
    function = np.max if op == "max" else np.min
    found = function(values, axis=axes)
    merge = np.maximum if op == "max" else np.minimum
    return found if old is None else merge(old, found)


def reduce_winner(
    op: str, values: Array, index: Array, axes: tuple[int, ...], old: tuple[Array, Array] | None
) -> tuple[Array, Array]:
    """Best value and its index: NaN beats all, then the extreme value, then the lowest index."""
    import numpy as np

    kept = [a for a in range(values.ndim) if a not in axes]
    shape = tuple(values.shape[a] for a in kept)
    order = (*kept, *axes)
    flat = values.transpose(order).reshape(*shape, -1)
    where = np.broadcast_to(index, values.shape).transpose(order).reshape(*shape, -1)
    if old is not None:
        flat = np.concatenate([old[0][..., None], flat], axis=-1)
        where = np.concatenate([old[1][..., None], where], axis=-1)
    best = flat.max(axis=-1) if op == "argmax" else flat.min(axis=-1)
    nan: Array = flat != flat
    is_best = np.where(nan.any(axis=-1)[..., None], nan, flat == best[..., None])
    return best, np.where(is_best, where, np.iinfo(np.int32).max).min(axis=-1)


def reduce_moments(
    values: Array, axes: tuple[int, ...], merged: int, old: tuple[Array, Array] | None
) -> tuple[Array, Array]:
    """Mean and sum of squared deviations, merged with ``merged`` earlier elements by Chan's rule."""
    import numpy as np

    count = prod(values.shape[a] for a in axes)
    mean = values.mean(axis=axes, dtype=values.dtype)
    m2 = np.square(values - np.expand_dims(mean, axes)).sum(axis=axes, dtype=values.dtype)
    if old is None or merged == 0:
        return mean, m2
    total = merged + count
    delta = mean - old[0]
    kind = values.dtype.type
    return old[0] + delta * kind(count / total), old[1] + m2 + delta * delta * kind(merged * count / total)
