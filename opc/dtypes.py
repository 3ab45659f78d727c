"""Element types: size, unit roundoff and NumPy equivalent of each."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class DType(StrEnum):
    """An element type; the value is its name in every text format."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I32 = "i32"
    I8 = "i8"

    @property
    def bytes(self) -> int:
        return _BYTES[self]

    @property
    def is_float(self) -> bool:
        return self in _ROUNDOFF

    @property
    def roundoff(self) -> float:
        """Unit roundoff u (half an ulp of 1); 0 for integers, which are exact."""
        return _ROUNDOFF.get(self, 0.0)

    @property
    def tiny(self) -> float:
        """Smallest normal number: the absolute error where a unit flushes subnormals."""
        return _TINY.get(self, 0.0)

    @property
    def largest(self) -> float:
        """Largest finite value."""
        return _LARGEST[self]

    @property
    def compute(self) -> DType:
        """Type in which scalar expressions over this type are evaluated."""
        return DType.F32 if self in (DType.F16, DType.BF16) else DType.I32 if self is DType.I8 else self

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype (bf16 from ml_dtypes)."""
        import numpy as np

        if self is DType.BF16:
            import ml_dtypes

            found: np.dtype[np.generic] = np.dtype(ml_dtypes.bfloat16)
            return found
        return np.dtype(_NUMPY[self])


_BYTES = {DType.F64: 8, DType.F32: 4, DType.F16: 2, DType.BF16: 2, DType.I32: 4, DType.I8: 1}
_ROUNDOFF = {DType.F64: 2.0**-53, DType.F32: 2.0**-24, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}
_TINY = {DType.F64: 2.0**-1022, DType.F32: 2.0**-126, DType.F16: 2.0**-14, DType.BF16: 2.0**-126}
_LARGEST = {
    DType.F64: (2 - 2.0**-52) * 2.0**1023,
    DType.F32: (2 - 2.0**-23) * 2.0**127,
    DType.F16: 65504.0,
    DType.BF16: (2 - 2.0**-7) * 2.0**127,
    DType.I32: 2.0**31 - 1,
    DType.I8: 127.0,
}
_NUMPY = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.I32: "int32",
    DType.I8: "int8",
}


def promote(a: DType, b: DType) -> DType:
    """Type of an arithmetic result: compute types, floats over integers, wider over narrower."""
    order = [DType.I32, DType.F32, DType.F64]
    return max(a.compute, b.compute, key=order.index)
