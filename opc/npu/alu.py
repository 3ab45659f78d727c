"""What the NPU's units compute: conversions, elementwise functions, reductions, matrix products.

Arithmetic is the project's: f16 is evaluated in f32 and rounded once to the destination, integers wrap,
conversion to i8 rounds to nearest even and saturates, to i32 truncates and saturates, NaN wins in max and
min. The matrix unit adds products to its accumulator one by one in row-major order of the reduced
dimensions, in the accumulator's type; products of f16 are exact in f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opc.dtypes import DType, promote
from opc.errors import ListingError, fail
from opc.scalar import FUNCTIONS, numpy_function

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

_LIMITS = {DType.I8: (-128, 127), DType.I32: (-(2**31), 2**31 - 1)}


def convert(values: Array, target: DType) -> Array:
    """``values`` in another type, by the rules above."""
    import numpy as np

    if target.is_float or values.dtype == target.numpy:
        return values.astype(target.numpy, copy=False)
    low, high = _LIMITS[target]
    if np.issubdtype(values.dtype, np.integer):
        # Wider integers only reach i32 from wrapped arithmetic, which has wrapped already.
        return np.clip(values, low, high).astype(target.numpy)
    rounded = np.rint(values) if target is DType.I8 else np.trunc(values)
    return np.clip(np.nan_to_num(rounded.astype(np.float64), nan=0.0), low, high).astype(target.numpy)


def compute_type(types: Sequence[DType], target: DType, op: str) -> DType:
    """Type in which an instruction evaluates its operands."""
    result = types[0].compute if types else target.compute
    for t in types[1:]:
        result = promote(result, t)
    function = FUNCTIONS.get(op)
    if function is not None and function.kind == "float" and not result.is_float:
        return DType.F32
    return result


def elementwise(op: str, operands: Sequence[Any], types: Sequence[DType | None], target: DType) -> Array:
    """``op`` on arrays and literals (whose type is None), converted to ``target``."""
    import numpy as np

    if op == "copy":
        value = np.asarray(operands[0]) if types[0] is None else operands[0]
        return convert(value, target)
    known = [t for t in (types[1:] if op == "select" else types) if t is not None]
    inner = compute_type(known, target, op).numpy
    values = [np.asarray(v).astype(inner, copy=False) for v in operands]
    if op == "fma":
        return convert(_fma(*values), target)
    if op == "select":
        return convert(np.where(np.asarray(operands[0]) != 0, values[1], values[2]), target)
    return convert(np.asarray(numpy_function(op)(*values)), target)


def _fma(a: Array, b: Array, c: Array) -> Array:
    import numpy as np

    if not np.issubdtype(a.dtype, np.floating):
        return np.asarray(a * b + c)
    # A product of two f32 is exact in f64, so only the sum's two roundings remain.
    wide = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    return wide.astype(a.dtype)


def drain(values: Array, forms: Sequence[str], target: DType) -> Array:
    """The accumulator's way out: the forms in order, then the conversion."""
    import numpy as np

    for form in forms:
        if form == "relu":
            values = np.maximum(values, values.dtype.type(0))
        elif form != "convert":
            raise fail(ListingError, "E0804", f"no unit applies '{form}' while draining")
    return convert(values, target)


def matmul(a: Array, b: Array, into: Array) -> None:
    """``into[B,M,N] += a[B,M,K] · b[B,K,N]``, added in order of k."""
    import numpy as np

    if np.issubdtype(into.dtype, np.integer):
        # Every partial sum of i8 products is exact in f64; the accumulator then wraps.
        exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
        into[...] = (into.astype(np.int64) + exact).astype(into.dtype)
        return
    columns = np.ascontiguousarray(np.moveaxis(a, 2, 0).astype(into.dtype))[..., None]
    rows = np.ascontiguousarray(np.moveaxis(b, 1, 0).astype(into.dtype))[:, :, None, :]
    product = np.empty_like(into)
    for column, row in zip(columns, rows, strict=True):
        np.multiply(column, row, out=product)
        np.add(into, product, out=into)


def reduce(op: str, values: Array, old: Array | None, target: DType) -> Array:
    """Sum, max or min of ``values[..., R]`` over the last axis, merged with ``old``."""
    import numpy as np

    inner = target.compute.numpy
    values = np.ascontiguousarray(values).astype(inner, copy=False)
    if op == "reduce_sum":
        result = np.add.reduce(values, axis=-1, dtype=inner)
        return convert(result if old is None else old.astype(inner) + result, target)
    combine = np.maximum if op == "reduce_max" else np.minimum
    result = combine.reduce(values, axis=-1)
    return convert(result if old is None else combine(old.astype(inner), result), target)


def reduce_index(op: str, values: Array, indices: Array, old: Sequence[Array] | None) -> tuple[Array, Array]:
    """Index of the greatest or least value over the last axis: NaN wins, then the lowest index."""
    import numpy as np

    if old is not None:
        values = np.concatenate([old[0].astype(values.dtype)[..., None], values], axis=-1)
        indices = np.concatenate([old[1].astype(indices.dtype)[..., None], indices], axis=-1)
    combine = np.maximum if op == "reduce_argmax" else np.minimum
    best = combine.reduce(values, axis=-1)
    wins = (values == best[..., None]) | np.isnan(values)
    index = np.where(wins, indices, np.iinfo(indices.dtype).max).min(axis=-1)
    return best, index


def reduce_moments(values: Array, old: Sequence[Array] | None, count: int) -> tuple[Array, Array]:
    """(mean, m2) over the last axis, merged by Chan's rule with ``count`` elements already in ``old``."""
    import numpy as np

    n = values.shape[-1]
    mean = values.mean(axis=-1, dtype=values.dtype)
    m2 = np.square(values - mean[..., None]).sum(axis=-1, dtype=values.dtype)
    if old is None or count == 0:
        return mean, m2
    total = count + n
    delta = mean - old[0]
    share = values.dtype.type(n / total)
    return old[0] + delta * share, old[1] + m2 + delta * delta * (values.dtype.type(count) * share)
