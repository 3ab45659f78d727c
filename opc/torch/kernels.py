"""Where the kernels of a torch function come from: one compiled kernel, one pair, or a source."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from opc.errors import RuntimeCallError, fail
from opc.family import Family
from opc.infer import Number, Seen
from opc.kernel import Kernel
from opc.lang import AttributeInfo
from opc.pair import Pair


class Call(NamedTuple):
    """Everything that decides which kernel a call needs; ``wrt`` are the arguments that want gradients."""

    arrays: tuple[Seen, ...]
    attributes: tuple[tuple[str, Number], ...]
    wrt: tuple[str, ...] = ()

    def key(self) -> str:
        """The call as text, which a graph of operators can hold."""
        arrays = [(a.shape, np.dtype(a.dtype).name, a.strides) for a in self.arrays]
        return json.dumps([arrays, self.attributes, self.wrt])


@lru_cache(maxsize=1024)
def call_of(key: str) -> Call:
    """The call of a key."""
    arrays, attributes, wrt = json.loads(key)
    found = tuple(Seen(tuple(shape), np.dtype(name), tuple(strides)) for shape, name, strides in arrays)
    return Call(found, tuple((name, value) for name, value in attributes), tuple(wrt))


class Kernels(Protocol):
    """What a torch function asks for kernels."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> tuple[tuple[str, str], ...]:
        """Name and kind of every tensor argument."""
        ...

    @property
    def attributes(self) -> tuple[AttributeInfo, ...]: ...
    @property
    def wrt(self) -> tuple[str, ...]:
        """Arguments that have gradients."""
        ...

    @property
    def has_plain(self) -> bool:
        """Whether there is a kernel that computes results alone."""
        ...

    def kernel(self, call: Call) -> Kernel:
        """The kernel that computes results alone."""
        ...

    def pair(self, call: Call) -> Pair:
        """The kernel with its gradients by ``call.wrt``."""
        ...


class OneKernel:
    """A compiled kernel; it has no gradient."""

    attributes: tuple[AttributeInfo, ...] = ()
    wrt: tuple[str, ...] = ()
    has_plain = True

    def __init__(self, kernel: Kernel) -> None:
        self.name, self._kernel = kernel.name, kernel
        self.arguments = tuple((s.name, s.kind) for s in kernel.signature.args)

    def kernel(self, call: Call) -> Kernel:
        return self._kernel

    def pair(self, call: Call) -> Pair:
        raise AssertionError("nobody asks for gradients of a kernel that has none")


class OnePair:
    """A compiled pair."""

    attributes: tuple[AttributeInfo, ...] = ()
    has_plain = False

    def __init__(self, pair: Pair) -> None:
        self.name, self.wrt, self._pair = pair.name, pair.wrt, pair
        self.arguments = tuple((s.name, s.kind) for s in pair.fwd.kernel.signature.args)

    def kernel(self, call: Call) -> Kernel:
        return self._pair.fwd.kernel

    def pair(self, call: Call) -> Pair:
        return self._pair


class FromSource:
    """A kernel of a source, compiled for the tensors it meets."""

    has_plain = True

    def __init__(
        self, source: str | Path, kernel: str | None, wrt: Sequence[str], numerics: str, mixed: str
    ) -> None:
        self._family = Family(source, kernel, wrt, numerics, mixed)
        info = self._family.info
        self.name, self.attributes, self.wrt = info.name, info.attributes, self._family.wrt
        self.arguments = tuple((p.name, p.kind) for p in info.params)

    def kernel(self, call: Call) -> Kernel:
        return self._family.kernel(call.arrays, dict(call.attributes))

    def pair(self, call: Call) -> Pair:
        return self._family.pair(call.arrays, dict(call.attributes), call.wrt)


def settled(attributes: Sequence[AttributeInfo], given: Mapping[str, Any], name: str) -> list[Number]:
    """A value for every attribute. Raises RuntimeCallError E0317, E0907, E0941."""
    known = {a.name: a for a in attributes}
    for wrong in given.keys() - known.keys():
        help = f"it has {', '.join(known) or 'none'}"
        raise fail(RuntimeCallError, "E0907", f"'{name}' has no attribute '{wrong}'", help=help)
    values = {**{n: a.default for n, a in known.items()}, **given}
    for missing in (n for n, v in values.items() if v is None):
        message = f"'{name}' needs a value for '{missing}'"
        raise fail(RuntimeCallError, "E0906", message, help=f"{missing}=...")
    return [_number(known[n], v, name) for n, v in values.items() if v is not None]


def _number(attribute: AttributeInfo, value: Any, name: str) -> Number:
    """A value as torch takes it for an operator. Raises RuntimeCallError E0317, E0941."""
    if getattr(value, "requires_grad", False):
        message = f"'{name}' has no gradient by its attribute '{attribute.name}'"
        raise fail(RuntimeCallError, "E0941", message, help=f"give {attribute.name}.item()")
    try:
        if not isinstance(value, bool):
            return operator.index(value) if attribute.is_whole else float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    kind = "a whole number" if attribute.is_whole else "a number"
    message = f"{attribute.name} is {str(value)[:40]}, but it must be {kind}"
    raise fail(RuntimeCallError, "E0317", message, help="give one number")
