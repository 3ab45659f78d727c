"""Torch tensors as memory of a kernel: used where they lie, copied where they lie otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from opc.arrays import byte_strides
from opc.dtypes import DType
from opc.errors import RuntimeCallError, fail
from opc.infer import Seen
from opc.signature import Slot
from opc.tensor.tensor import Tensor

_DTYPES = {
    torch.float64: DType.F64,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int32: DType.I32,
    torch.int8: DType.I8,
}
_TORCH = {ours: theirs for theirs, ours in _DTYPES.items()}


class Memory:
    """Where a tensor's data begins; the one thing that native code asks of an array."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, owner: Any, offset: int = 0) -> None:
        self._owner = owner
        self.__array_interface__ = {"data": (owner.data_ptr() + offset, False)}


def check(tensor: Any, name: str) -> None:
    """Raise RuntimeCallError E0940 for what is no dense tensor on the CPU."""
    if not isinstance(tensor, torch.Tensor):
        message = f"'{name}' is a {type(tensor).__name__}, not a tensor"
        raise fail(RuntimeCallError, "E0940", message, help="give torch tensors in the memory of the CPU")
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        message = f"'{name}' is a {tensor.layout} tensor on {tensor.device}"
        raise fail(RuntimeCallError, "E0940", message, help="use dense tensors on the CPU: t.cpu()")


def seen(tensor: Any, name: str) -> Seen:
    """What decides about the kernel for a tensor. Raises RuntimeCallError E0903."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        message = f"'{name}' has dtype {tensor.dtype}, which opc has not"
        raise fail(RuntimeCallError, "E0903", message, help=f"dtypes: {', '.join(DType)}")
    # Sizes may be symbols while torch compiles; a kernel is for numbers.
    return Seen(tuple(map(int, tensor.shape)), dtype.numpy, tuple(map(int, tensor.stride())))


def memory(tensor: Any, slot: Slot) -> Memory:
    """A tensor for an argument of a kernel. Raises RuntimeCallError E0902, E0903."""
    wanted = slot.tensor
    if _DTYPES.get(tensor.dtype) is not wanted.dtype:
        message = f"'{slot.name}' has dtype {tensor.dtype}, the kernel was compiled for {wanted.dtype}"
        raise fail(RuntimeCallError, "E0903", message, help=f"convert it: t.to({_TORCH[wanted.dtype]})")
    if tuple(tensor.shape) != wanted.shape:
        message = f"'{slot.name}' has shape {tuple(tensor.shape)}, the kernel was compiled for {wanted.shape}"
        raise fail(RuntimeCallError, "E0902", message, help="compile a kernel for this shape")
    if tensor.is_conj() or tensor.is_neg() or not _laid_out(tensor, wanted):
        tensor = empty(wanted).copy_(tensor)
    return Memory(tensor)


def empty(wanted: Tensor) -> Any:
    """A new tensor in the memory order of a kernel's."""
    return torch.empty_strided(wanted.shape, _strides(wanted), dtype=_TORCH[wanted.dtype])


def copied(tensor: Any, wanted: Tensor) -> Any:
    """A new tensor with the values of another."""
    return empty(wanted).copy_(tensor)


def _strides(wanted: Tensor) -> Sequence[int]:
    return [s // wanted.dtype.bytes for s in byte_strides(wanted)]


def _laid_out(tensor: Any, wanted: Tensor) -> bool:
    if prod(wanted.shape) == 0:
        return True
    strides = zip(tensor.stride(), _strides(wanted), wanted.shape, strict=True)
    return all(n == 1 or given == right for given, right, n in strides)
