"""What a kernel takes and gives, symbolically: for signatures, tables and help texts."""

from __future__ import annotations

from typing import NamedTuple

from opc.lang import syntax as ast
from opc.lang.sizes import WHOLE_TYPES, Size, evaluate, text_of, walk
from opc.lang.specialise import symbols_of


class TensorInfo(NamedTuple):
    """A tensor argument or result. ``kind``: "input", "param", "inout" or "result"."""

    name: str
    kind: str
    dtype: str
    shape: tuple[str, ...]


class AttributeInfo(NamedTuple):
    """An attribute; ``default`` None means that a call must give it."""

    name: str
    dtype: str
    default: Size | None

    @property
    def is_whole(self) -> bool:
        """Whether its values are integers."""
        return self.dtype in WHOLE_TYPES


class KernelInfo(NamedTuple):
    """A kernel before specialisation.

    ``symbols`` are the sizes that its arguments' shapes name, ``example`` the values of its
    example, ``missing`` the sizes and attributes that have no value until a caller gives one.
    """

    name: str
    doc: str
    params: tuple[TensorInfo, ...]
    attributes: tuple[AttributeInfo, ...]
    results: tuple[TensorInfo, ...]
    symbols: tuple[str, ...]
    example: dict[str, Size]
    missing: tuple[str, ...]


def kernel_info(file: ast.File, kernel: ast.Kernel) -> KernelInfo:
    """The description of a checked kernel."""
    defaults: dict[str, Size] = {}
    attributes = tuple(_attribute(file, p, defaults) for p in kernel.attributes)
    symbols = tuple(symbols_of(kernel))
    example: dict[str, Size] = {}
    for name, entry in kernel.example.items():
        example[name] = evaluate(entry.value, example, file)
    wanted = [*symbols, *(a.name for a in attributes if a.default is None)]
    return KernelInfo(
        kernel.name,
        kernel.doc,
        tuple(map(_tensor, kernel.tensors)),
        attributes,
        tuple(map(_tensor, kernel.results)),
        symbols,
        example,
        tuple(name for name in wanted if name not in example),
    )


def _tensor(param: ast.Param) -> TensorInfo:
    return TensorInfo(param.name, param.kind, param.type, tuple(map(text_of, param.shape or ())))


def _attribute(file: ast.File, param: ast.Param, defaults: dict[str, Size]) -> AttributeInfo:
    """The attribute; ``defaults`` collects values, for a default may name attributes before it."""
    if param.default is None or not all(
        n.name in defaults for n in walk(param.default) if isinstance(n, ast.Name)
    ):
        return AttributeInfo(param.name, param.type, None)
    value = evaluate(param.default, {**defaults}, file)
    defaults[param.name] = value if param.type in WHOLE_TYPES else float(value)
    return AttributeInfo(param.name, param.type, defaults[param.name])
