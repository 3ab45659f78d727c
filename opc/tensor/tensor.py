"""The type of an array: what a kernel's caller must know of the tensor IR, and no more."""

from __future__ import annotations

from dataclasses import dataclass

from opc.dtypes import DType


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named dense tensor. ``order`` lists axes from slowest to fastest in memory
    (None: C order of the declared indices); indices are always in declared order.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    order: tuple[int, ...] | None = None

    @property
    def memory_order(self) -> tuple[int, ...]:
        return self.order if self.order is not None else tuple(range(len(self.shape)))

    @property
    def size(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return n
