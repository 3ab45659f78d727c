"""Arrays handed to a kernel: zero-copy views where memory allows it, coded errors where it does not."""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import numpy as np

from opc.dtypes import DType
from opc.errors import RuntimeCallError, fail
from opc.tensor.tensor import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
LINE = 64


def byte_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides, in bytes per declared axis, of the dense layout that ``tensor.order`` states."""
    strides = [0] * len(tensor.shape)
    step = tensor.dtype.bytes
    for axis in reversed(tensor.memory_order):
        strides[axis] = step
        step *= tensor.shape[axis]
    return tuple(strides)


def empty(tensor: Tensor) -> Array:
    """A fresh array of the tensor's shape, dtype and memory order."""
    return in_layout(aligned(prod(tensor.shape) * tensor.dtype.bytes), tensor)


def in_layout(memory: Array, tensor: Tensor) -> Array:
    """The first bytes of ``memory`` as an array of the tensor's shape, dtype and memory order."""
    order = tensor.memory_order
    shape = tuple(tensor.shape[a] for a in order)
    flat: Array = memory[: prod(shape) * tensor.dtype.bytes].view(tensor.dtype.numpy).reshape(shape)
    return flat.transpose(tuple(order.index(a) for a in range(len(order))))


def address(array: Array) -> int:
    """Where the array's first element lies; several times faster than ``array.ctypes``."""
    found: int = array.__array_interface__["data"][0]
    return found


def aligned(size: int) -> Array:
    """``size`` bytes that start at a cache line: loads of whole vectors and tile rows then touch one line each."""
    raw = np.empty(size + LINE, np.uint8)
    start = -address(raw) % LINE
    return raw[start : start + size]


def as_input(value: object, tensor: Tensor) -> Array:
    """``value`` as an array in the layout of ``tensor``; a strided view is copied, the rest is not.

    Raises RuntimeCallError E0901 (not an array), E0902 (shape), E0903 (dtype), E0904 (memory order).
    """
    array = checked(value, tensor)
    if _laid_out(array, tensor):
        return array
    if not _dense(array):
        copy = empty(tensor)
        copy[...] = array
        return copy
    raise _wrong_order(array, tensor)


def as_output(value: object, tensor: Tensor) -> Array:
    """``value`` as an array written in place. Raises RuntimeCallError as ``as_input``, E0905 if read-only."""
    array = checked(value, tensor)
    if not array.flags.writeable:
        raise fail(
            RuntimeCallError,
            "E0905",
            f"'{tensor.name}' is written by the kernel but its array is read-only",
            help="pass a writable array: array.copy()",
        )
    if not _laid_out(array, tensor):
        raise _wrong_order(array, tensor)
    return array


def checked(value: object, tensor: Tensor) -> Array:
    """``value`` as an array of the tensor's dtype and shape, in any memory order."""
    array = view(value, tensor.name, tensor)
    if array.dtype != tensor.dtype.numpy:
        raise fail(
            RuntimeCallError,
            "E0903",
            f"'{tensor.name}' has dtype {array.dtype}, the kernel was compiled for {tensor.dtype}",
            help=_conversion(array.dtype, tensor),
        )
    if array.shape != tensor.shape:
        raise fail(
            RuntimeCallError,
            "E0902",
            f"'{tensor.name}' has shape {_shape(array.shape)}, the kernel was compiled for {_shape(tensor.shape)}",
            help="compile a kernel for this shape: opc.compile(..., N=..., C=...)",
        )
    return array


def overlaps(a: Array, b: Array) -> bool:
    """Whether two arrays share memory (by their bounds, which is exact for dense arrays)."""
    return np.may_share_memory(a, b)


def view(value: object, name: str, tensor: Tensor | None = None) -> Array:
    """``value`` as an array that shares its memory. Raises RuntimeCallError E0901."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | int | float | np.generic) and tensor and tensor.shape == ():
        return np.asarray(value, tensor.dtype.numpy)
    try:
        if hasattr(value, "__array_interface__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return _from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as problem:
        raise fail(RuntimeCallError, "E0901", f"'{name}' cannot be viewed as an array: {problem}") from None
    raise fail(
        RuntimeCallError,
        "E0901",
        f"'{name}' is a {type(value).__name__}, not an array",
        help="pass a NumPy array, or an object with DLPack or __array_interface__",
    )


def _from_dlpack(value: Any) -> Array:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return np.from_dlpack(value)
    if value.dtype == torch.bfloat16:
        # NumPy's DLPack reader knows no bfloat16, so the bits travel as int16.
        bits: Array = value.view(torch.int16).numpy()
        return bits.view(DType.BF16.numpy)
    # Unlike from_dlpack, numpy() keeps the memory writable for ``out=``.
    array: Array = value.numpy()
    return array


def _laid_out(array: Array, tensor: Tensor) -> bool:
    if array.size == 0 or not array.flags.aligned:
        return array.size == 0
    wanted = byte_strides(tensor)
    return all(n == 1 or s == w for n, s, w in zip(array.shape, array.strides, wanted, strict=True))


def _dense(array: Array) -> bool:
    step = array.itemsize
    for stride, extent in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True) if n != 1):
        if stride != step:
            return False
        step *= extent
    return array.flags.aligned


def _wrong_order(array: Array, tensor: Tensor) -> Exception:
    wanted = tensor.memory_order
    return fail(
        RuntimeCallError,
        "E0904",
        f"'{tensor.name}' has byte strides {_shape(array.strides)}, the kernel was compiled for "
        f"{_shape(byte_strides(tensor))} (memory order {_shape(wanted)})",
        help=f"compile with the matching layout=, or copy into kernel.empty('{tensor.name}')",
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _conversion(given: np.dtype[Any], tensor: Tensor) -> str:
    for kind in DType:
        if kind.numpy == given:
            return f'convert it, or compile with dtype="{kind}"'
    return f'convert it: array.astype("{tensor.dtype.numpy}")'


def physical(array: Array, tensor: Tensor) -> Array:
    """A view of ``array`` whose axes run in memory order, as program buffers declare them."""
    return array.transpose(tensor.memory_order)
