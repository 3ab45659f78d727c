"""``opc.torch.function``: any kernel or pair as a function of torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opc.errors import RuntimeCallError, fail
from opc.kernel import Kernel
from opc.numerics import STRICT
from opc.pair import Pair
from opc.shared import Shared
from opc.torch.kernels import FromSource, Kernels, OneKernel, OnePair
from opc.torch.operators import Operators

Tensor = Any


class Function(Shared):
    """A kernel on torch tensors: one tensor, a tuple of them, or None, as the kernel has results.

    Call it with the kernel's tensors in order or by name, and its attributes by name. Tensors that the kernel
    updates in place get their new values. ``operators`` are the custom operators behind it.
    """

    def __init__(self, kernels: Kernels, name: str | None = None) -> None:
        self._made_of = kernels, name
        self.operators = Operators(kernels, name or kernels.name)

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return Function, self._made_of

    def __repr__(self) -> str:
        return f"<opc.torch.Function {self.operators.name}({', '.join(self.operators.names)})>"

    def __call__(self, *tensors: Tensor, **named: Any) -> Any:
        """Compute. Raises RuntimeCallError E0901–E0912, E0940 for tensors it cannot use."""
        names = self.operators.names
        given = dict(zip(names, tensors, strict=False))
        for name in [n for n in named if n in names]:
            if name in given:
                message = f"argument '{name}' of '{self.operators.name}' is given twice"
                raise fail(RuntimeCallError, "E0908", message, help="give it once")
            given[name] = named.pop(name)
        if len(given) != len(names) or len(tensors) > len(names):
            message = f"'{self.operators.name}' takes {len(names)} tensors: {', '.join(names)}"
            raise fail(RuntimeCallError, "E0906", message)
        found = self.operators([given[n] for n in names], named)
        return found[0] if len(found) == 1 else tuple(found) or None


def function(
    source: Kernel | Pair | str | Path,
    kernel: str | None = None,
    *,
    wrt: Sequence[str] = (),
    numerics: str = STRICT,
    mixed: str = "",
    name: str | None = None,
) -> Function:
    """A function of torch tensors that runs a kernel.

    ``source`` is a compiled kernel (no gradients), a pair, or what ``opc.compile`` takes: then kernels are compiled for
    the shapes, dtypes and memory orders that they meet, and have gradients by ``wrt`` (or those that a derived
    kernel declares); ``mixed`` is the narrow type of the products of those in f32. ``name`` is what torch calls the
    operator, ``opc::NAME``.
    """
    if isinstance(source, Kernel):
        return Function(OneKernel(source), name)
    if isinstance(source, Pair):
        return Function(OnePair(source), name)
    return Function(FromSource(source, kernel, wrt, numerics, mixed), name)
