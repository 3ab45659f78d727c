"""The matrix unit: products added to the accumulator in one documented order.

Everything else the NPU computes is what ``opc.program.evaluate`` says of the program instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any


_NEAR = 1 << 16  # elements of the terms added at once


def matmul(a: Array, b: Array, into: Array) -> None:
    """``into[B,M,N] += a[B,M,K] · b[B,K,N]``, one k after the other, in the accumulator's type.

    Products of f16 are exact in f32, so each step rounds once. Integers wrap.
    """
    import numpy as np

    if np.issubdtype(into.dtype, np.integer):
        # Every partial sum of i8 products is exact in f64; the accumulator then wraps.
        exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
        into[...] = (into.astype(np.int64) + exact).astype(into.dtype)
        return
    columns = np.ascontiguousarray(np.moveaxis(a, 2, 0).astype(into.dtype))[..., None]
    rows = np.ascontiguousarray(np.moveaxis(b, 1, 0).astype(into.dtype))[:, :, None, :]
    # A sum over the outermost axis adds slice after slice; over the only axis numpy would pair terms.
    chunk = max(1, _NEAR // into.size) if into.size > 1 else 1
    terms = np.empty((chunk + 1, *into.shape), into.dtype)
    for k in range(0, len(columns), chunk):
        n = min(chunk, len(columns) - k)
        terms[0] = into
        np.multiply(columns[k : k + n], rows[k : k + n], out=terms[1 : n + 1])
        np.add.reduce(terms[: n + 1], axis=0, out=into)
