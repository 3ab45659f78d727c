"""Sizes, dtype and memory order of a kernel from the arrays it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from opc.dtypes import DType
from opc.errors import RuntimeCallError, fail

if TYPE_CHECKING:
    from opc.lang import KernelInfo

Number = int | float


class Seen(NamedTuple):
    """What is known of an array before it is looked into; ``strides`` in any unit."""

    shape: tuple[int, ...]
    dtype: Any  # of NumPy
    strides: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 4


class Settings(NamedTuple):
    """What the arrays of a call say of its kernel."""

    sizes: Mapping[str, Number]
    dtype: str | None
    layout: str | None
    wide: bool  # what the kernel declares as f32 is f64


def settings(info: KernelInfo, arrays: Sequence[Seen], attributes: Mapping[str, Number]) -> Settings:
    """What the arrays say, one for every tensor. Raises RuntimeCallError E0902, E0903, E0906."""
    sizes = dict(attributes)
    dtype, layout, wide, name = None, None, False, info.name
    if len(arrays) != len(info.params):
        message = f"'{name}' takes {len(info.params)} arrays, {len(arrays)} were given"
        raise fail(RuntimeCallError, "E0906", message)
    for param, seen in zip(info.params, arrays, strict=True):
        if len(seen.shape) != len(param.shape):
            wanted = ", ".join(param.shape)
            message = f"'{param.name}' of '{name}' has rank {len(seen.shape)}, it must be [{wanted}]"
            raise fail(RuntimeCallError, "E0902", message, help="reshape it")
        named = zip(param.shape, seen.shape, strict=True)
        sizes |= {s: n for s, n in named if s in info.symbols and s not in sizes}
        if param.dtype == "T" and dtype is None:
            dtype = str(element_type(param.name, seen.dtype))
        wide = wide or (param.dtype == DType.F32 and DType.F64.numpy == seen.dtype)
        if seen.is_image and param.kind != "param" and layout is None:
            layout = "nhwc" if channels_last(seen.shape, seen.strides) else "nchw"
    return Settings(sizes, dtype, layout, wide)


def element_type(name: str, kind: Any) -> DType:
    """The dtype of an array. Raises RuntimeCallError E0903."""
    for dtype in DType:
        if dtype.numpy == kind:
            return dtype
    known = ", ".join(DType)
    message = f"'{name}' has dtype {kind}, which opc has not"
    raise fail(RuntimeCallError, "E0903", message, help=f"dtypes: {known}")


def channels_last(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether an image lies with its channels beside each other."""
    _, c, h, w = shape
    return c > 1 and strides[1] < strides[3] and (h * w > 1)
