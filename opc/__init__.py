"""opc: an operator compiler.

``kernel = opc.compile("kernels_dsl/conv_bn_relu.k", N=8)`` gives a callable native kernel with its
NPU listing and timeline; ``opc.ops`` holds ready operators. Names resolve on first use, so that
``import opc`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opc import ops
    from opc.driver import compile, load
    from opc.errors import (
        CheckError,
        IRError,
        LanguageError,
        ListingError,
        MachineError,
        OpcError,
        PassError,
        RuntimeCallError,
    )
    from opc.family import ArrayPair
    from opc.gradients import grad, load_pair
    from opc.kernel import Kernel
    from opc.pair import Pair, Saved
    from opc.scaling import LossScale

__version__ = "0.1.0"

__all__ = [
    "ArrayPair",
    "CheckError",
    "IRError",
    "Kernel",
    "LanguageError",
    "ListingError",
    "LossScale",
    "MachineError",
    "OpcError",
    "Pair",
    "PassError",
    "RuntimeCallError",
    "Saved",
    "__version__",
    "compile",
    "grad",
    "load",
    "load_pair",
    "ops",
]

_HOME = {
    "ArrayPair": "opc.family",
    "Kernel": "opc.kernel",
    "LossScale": "opc.scaling",
    "Pair": "opc.pair",
    "Saved": "opc.pair",
    "compile": "opc.driver",
    "grad": "opc.gradients",
    "load": "opc.driver",
    "load_pair": "opc.gradients",
}


def __getattr__(name: str) -> Any:
    if name in ("ops", "torch"):
        return import_module(f"opc.{name}")
    if name in __all__:
        return getattr(import_module(_HOME.get(name, "opc.errors")), name)
    raise AttributeError(f"module 'opc' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
