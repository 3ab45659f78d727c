"""A kernel for whatever sizes, dtype and memory order its arrays have, and its derivative."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from opc import driver, sources
from opc.arrays import Array, view
from opc.cache.key import Request
from opc.errors import RuntimeCallError, fail
from opc.infer import Number, Seen, settings
from opc.kernel import Kernel, Result
from opc.numerics import STRICT
from opc.pair import Pair, Saved
from opc.shared import Shared
from opc.sources import Wanted

_LOCK = threading.Lock()
_Attributes = tuple[tuple[str, Number], ...]


class Family(Shared):
    """A kernel of a source, compiled when arrays of a new kind are met; with ``wrt`` its derivative too.

    Where an array is f64 that the kernel declares as f32, all of the kernel is in f64, mixed precision or not.
    """

    def __init__(
        self,
        source: str | Path,
        kernel: str | None = None,
        wrt: Sequence[str] = (),
        numerics: str = STRICT,
        mixed: str = "",
    ) -> None:
        from opc.lang import derivation, kernel_info

        asked = sources.asked(source, Wanted(kernel, mixed=mixed), None, numerics)
        self._given = (asked.text, kernel, tuple(wrt), numerics, mixed)
        derived = None if wrt else derivation(asked.text, asked.file, kernel)
        self.wrt = derived.wrt if derived else tuple(wrt)
        self.info = kernel_info(asked.text, asked.file, derived.name if derived else kernel)
        if derived is not None:
            file = derived.found.file
            asked = asked._replace(text=file.text, file=file.name, kernel=derived.found.kernel.name)
        self._asked = asked._replace(kernel=self.info.name)
        self._kernel = lru_cache(maxsize=512)(self._compiled)
        self._pair = lru_cache(maxsize=512)(self._derived)

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return Family, self._given

    def kernel(self, arrays: Sequence[Seen], attributes: Mapping[str, Number]) -> Kernel:
        """The kernel for such arrays. Raises what ``opc.compile`` raises."""
        # One compilation at a time: two threads that meet a new shape together must not both compile it.
        with _LOCK:
            return self._kernel(tuple(arrays), tuple(attributes.items()))

    def pair(self, arrays: Sequence[Seen], attributes: Mapping[str, Number], wrt: Sequence[str] = ()) -> Pair:
        """Its derivative for such arrays, by some arguments or all. Raises what ``opc.grad`` raises."""
        with _LOCK:
            return self._pair(tuple(arrays), tuple(attributes.items()), tuple(wrt) or self.wrt)

    def _compiled(self, arrays: tuple[Seen, ...], attributes: _Attributes) -> Kernel:
        return driver.compile_request(self._request(arrays, attributes))

    def _derived(self, arrays: tuple[Seen, ...], attributes: _Attributes, wrt: tuple[str, ...]) -> Pair:
        return driver.compile_pair(self._request(arrays, attributes)._replace(wrt=wrt))

    def _request(self, arrays: tuple[Seen, ...], attributes: _Attributes) -> Request:
        found = settings(self.info, arrays, dict(attributes))
        request = self._asked._replace(sizes=found.sizes, dtype=found.dtype, layout=found.layout)
        return _in_double(request._replace(mixed="")) if found.wide else request


def _in_double(request: Request) -> Request:
    """The same kernel with f64 for f32, as tensor IR."""
    from opc.tensor.text import print_function
    from opc.tensor.widen import widened

    machine = driver.target_machine("cpu", request.machine)
    function = driver.source(request.text, request.file, sources.wanted(request), machine).function
    text = print_function(widened(function))
    return Request(text, "source.tensor", machine=request.machine, numerics=request.numerics)


class ArrayPair(Shared):
    """The derivative of an operator: ``fwd`` and ``bwd`` as ``opc.Pair`` has them, for arrays of any sizes."""

    def __init__(self, family: Family, defaults: Mapping[str, Number]) -> None:
        self.name, self.wrt = f"{family.info.name}_grad", family.wrt
        self._family, self._defaults = family, defaults

    def __repr__(self) -> str:
        return f"<opc.ArrayPair {self.name} wrt {', '.join(self.wrt)}>"

    def fwd(self, *arrays: object, out: object = None, **attributes: Number) -> tuple[Result, Saved]:
        """The operator's result, and what backward needs. Raises what the operator raises."""
        known = {a.name for a in self._family.info.attributes}
        for name in attributes:
            if name not in known:
                help = f"it has {', '.join(sorted(known)) or 'none'}"
                message = f"'{self._family.info.name}' has no attribute '{name}'"
                raise fail(RuntimeCallError, "E0907", message, help=help)
        views = [view(a, self._family.info.name) for a in arrays]
        seen = [Seen(a.shape, a.dtype, a.strides) for a in views]
        return self._family.pair(seen, {**self._defaults, **attributes}).fwd(*views, out=out)

    def bwd(self, saved: Saved, *gradients: object, out: object = None) -> tuple[Array, ...]:
        """The gradient of each argument in ``wrt``. Raises RuntimeCallError E0901–E0910, E0936."""
        if not isinstance(saved, Saved):
            message = f"'{self.name}' takes what its own forward kernel saved, not a {type(saved).__name__}"
            raise fail(RuntimeCallError, "E0936", message)
        return saved.pair.bwd(saved, *gradients, out=out)


def of_operator(operator: Callable[..., Any], wrt: Sequence[str]) -> ArrayPair:
    """The derivative of a function of ``opc.ops``, with its defaults."""
    import inspect

    import kernels_dsl

    family = Family(kernels_dsl.path(operator.__name__), operator.__name__, wrt)
    known = {a.name for a in family.info.attributes}
    defaults = {n: p.default for n, p in inspect.signature(operator).parameters.items() if n in known}
    return ArrayPair(family, {n: v for n, v in defaults.items() if v is not None})
