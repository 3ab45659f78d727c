"""What passes may do to rounding; ``docs/language.md`` and ``docs/training.md`` state what each name promises."""

from __future__ import annotations

from opc.dtypes import DType
from opc.errors import RuntimeCallError, fail

STRICT, FAST = NUMERICS = ("strict", "fast")
MIXED = (DType.BF16, DType.F16)  # narrow types of mixed precision


def licence(numerics: str) -> str:
    """``numerics`` if it is one of NUMERICS. Raises RuntimeCallError E0930."""
    if numerics in NUMERICS:
        return numerics
    known = ", ".join(NUMERICS)
    raise fail(RuntimeCallError, "E0930", f"unknown numerics '{numerics}'", help=f"numerics: {known}")


def low_type(name: str) -> DType:
    """The narrow type of that name. Raises RuntimeCallError E0942."""
    if name in MIXED:
        return DType(name)
    known = ", ".join(MIXED)
    message = f"mixed precision has no narrow type '{name}'"
    raise fail(RuntimeCallError, "E0942", message, help=f"mixed: {known}")
