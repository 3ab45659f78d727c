"""Ready operators on arrays, each compiled on first use for the shapes, dtype and memory order it meets.

    y = opc.ops.conv2d(x, w, stride=2, pad=1)

Arrays are NumPy arrays, or anything with DLPack or ``__array_interface__``; images may be in C order (NCHW) or
channels last. Every function takes ``out=``, returns a new array otherwise, and raises RuntimeCallError
(E09xx) for arrays it cannot use and LanguageError (E03xx) for shapes that do not go together. The operators are
the kernels of ``kernels_dsl``; convolutions take ``numerics=``, and ``opc.compile`` gives one of them as an object
with bound parameters.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

import kernels_dsl
from opc import driver
from opc.arrays import Array, view
from opc.errors import RuntimeCallError, fail
from opc.infer import Seen, channels_last, settings
from opc.pipeline import STRICT

if TYPE_CHECKING:
    from opc.kernel import Kernel
    from opc.lang import KernelInfo

_Layout = tuple[tuple[int, ...], Any, tuple[int, ...]]  # shape, dtype, strides
_LOCK = threading.Lock()


def conv2d(
    x: object,
    w: object,
    *,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    groups: int = 1,
    out: object = None,
    numerics: str = STRICT,
) -> Array:
    """2-D cross-correlation of ``x[N,C,H,W]`` with ``w[K,C/groups,R,S]``; returns ``[N,K,P,Q]``."""
    attributes = (("stride", stride), ("pad", pad), ("dilation", dilation), ("groups", groups))
    return _call("conv2d", (x, w), attributes, out, numerics)


def conv_bn_relu(
    x: object,
    w: object,
    gamma: object,
    beta: object,
    mean: object,
    var: object,
    *,
    stride: int = 1,
    pad: int = 1,
    eps: float = 1e-5,
    out: object = None,
    numerics: str = STRICT,
) -> Array:
    """Convolution, batch normalisation with the given statistics, and ReLU in one kernel.

    ``x[N,C,H,W]``, ``w[K,C,R,S]``, the rest f32 ``[K]``; returns ``[N,K,P,Q]``.
    """
    attributes = (("stride", stride), ("pad", pad), ("eps", eps))
    return _call("conv_bn_relu", (x, w, gamma, beta, mean, var), attributes, out, numerics)


def conv_bn_add_relu(
    x: object,
    w: object,
    gamma: object,
    beta: object,
    mean: object,
    var: object,
    residual: object,
    *,
    stride: int = 1,
    pad: int = 1,
    eps: float = 1e-5,
    out: object = None,
    numerics: str = STRICT,
) -> Array:
    """As ``conv_bn_relu``, adding ``residual[N,K,P,Q]`` before ReLU."""
    attributes = (("stride", stride), ("pad", pad), ("eps", eps))
    return _call("conv_bn_add_relu", (x, w, gamma, beta, mean, var, residual), attributes, out, numerics)


def batch_norm(
    x: object,
    gamma: object,
    beta: object,
    mean: object,
    var: object,
    *,
    eps: float = 1e-5,
    out: object = None,
) -> Array:
    """``(x - mean) / sqrt(var + eps) * gamma + beta`` per channel of ``x[N,C,H,W]``; the rest f32 ``[C]``."""
    return _call("batch_norm", (x, gamma, beta, mean, var), (("eps", eps),), out)


def relu(x: object, *, out: object = None) -> Array:
    """``max(x, 0)``, any shape."""
    return _elementwise("relu", (x,), out)


def add(a: object, b: object, *, out: object = None) -> Array:
    """``a + b`` of equal shapes, any rank."""
    return _elementwise("add", (a, b), out)


def matmul(a: object, b: object, *, out: object = None) -> Array:
    """``a[M,K] @ b[K,N]``; returns ``[M,N]``."""
    return _call("matmul", (a, b), (), out)


def linear(x: object, w: object, bias: object = None, *, out: object = None) -> Array:
    """``x[M,K] @ w[N,K].T + bias[N]``, without ``bias`` no shift; returns ``[M,N]``."""
    if bias is None:
        weights = view(w, "linear")
        bias = np.zeros(weights.shape[:1], weights.dtype)
    return _call("linear", (x, w, bias), (), out)


def max_pool2d(x: object, *, size: int = 3, stride: int = 2, pad: int = 1, out: object = None) -> Array:
    """Largest value of every ``size × size`` window of ``x[N,C,H,W]``; padding never wins."""
    return _call("max_pool2d", (x,), (("size", size), ("stride", stride), ("pad", pad)), out)


def avg_pool2d(
    x: object, *, size: int = 2, stride: int | None = None, pad: int = 0, out: object = None
) -> Array:
    """Mean of every ``size × size`` window of ``x[N,C,H,W]``; padding counts as zeros. ``stride``: ``size``."""
    step = size if stride is None else stride
    return _call("avg_pool2d", (x,), (("size", size), ("stride", step), ("pad", pad)), out)


def softmax(x: object, *, out: object = None) -> Array:
    """Softmax over the last axis of ``x[M,N]``."""
    return _call("softmax", (x,), (), out)


def layer_norm(x: object, gamma: object, beta: object, *, eps: float = 1e-5, out: object = None) -> Array:
    """Normalise the last axis of ``x[M,N]``, then scale and shift with f32 ``[N]``."""
    return _call("layer_norm", (x, gamma, beta), (("eps", eps),), out)


def _call(
    name: str,
    values: tuple[object, ...],
    attributes: tuple[tuple[str, int | float], ...],
    out: object,
    numerics: str = STRICT,
) -> Array:
    arrays = _in_order(name, tuple(view(v, name) for v in values))
    layouts: tuple[_Layout, ...] = tuple((a.shape, a.dtype, a.strides) for a in arrays)
    result: Array = _kernel(name, layouts, attributes, numerics)(*arrays, out=out)
    return result


def _in_order(name: str, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Arrays in memory orders that one kernel takes: images as the first image has them, all else in C order.

    What lies otherwise (a transposed matrix, weights in channels-last order) is copied.
    """
    found: list[Array] = []
    last: bool | None = None
    for param, a in zip(_info(name).params, arrays, strict=False):
        image = a.ndim == 4 and param.kind != "param"
        if image and last is None:
            last = channels_last(a.shape, a.strides)
        if image and last:
            found.append(np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
        else:
            found.append(np.ascontiguousarray(a))
    return (*found, *arrays[len(found) :])


def _elementwise(name: str, values: tuple[object, ...], out: object) -> Array:
    """Call an elementwise kernel on arrays of any rank, seen as one row each in the first array's memory order."""
    arrays = tuple(view(v, name) for v in values)
    first = arrays[0]
    order = tuple(sorted(range(first.ndim), key=lambda axis: -first.strides[axis]))
    if any(a.shape != first.shape for a in arrays):
        shapes = " and ".join(str(a.shape) for a in arrays)
        raise fail(RuntimeCallError, "E0902", f"'{name}' takes arrays of one shape, not {shapes}")
    flat = tuple(np.ascontiguousarray(a.transpose(order)).reshape(1, 1, 1, -1) for a in arrays)
    back = tuple(order.index(axis) for axis in range(first.ndim))
    if out is None:
        result = _call(name, flat, (), None)
        return result.reshape(tuple(first.shape[axis] for axis in order)).transpose(back)
    target = view(out, name)
    if (
        target.shape != first.shape
        or target.strides != first.strides
        or not target.transpose(order).flags.c_contiguous
    ):
        message = (
            f"out= of '{name}' must have the shape and the memory order of its first argument, without gaps"
        )
        raise fail(RuntimeCallError, "E0904", message, help="use numpy.empty_like(x)")
    _call(name, flat, (), target.transpose(order).reshape(1, 1, 1, -1))
    return target


@lru_cache(maxsize=512)
def _specialised(
    name: str, layouts: tuple[_Layout, ...], attributes: tuple[tuple[str, int | float], ...], numerics: str
) -> Kernel:
    found = settings(_info(name), [Seen(*layout) for layout in layouts], dict(attributes))
    path = kernels_dsl.path(name)
    return driver.compile_sized(path, name, found.dtype, found.layout, None, None, found.sizes, numerics)


def _kernel(
    name: str, layouts: tuple[_Layout, ...], attributes: tuple[tuple[str, int | float], ...], numerics: str
) -> Kernel:
    # One compilation at a time: two threads that meet a new shape together must not both compile it.
    with _LOCK:
        return _specialised(name, layouts, attributes, numerics)


@lru_cache(maxsize=64)
def _info(name: str) -> KernelInfo:
    from opc.lang import kernel_info

    return kernel_info(kernels_dsl.source(name), f"kernels_dsl/{name}.k", name)
