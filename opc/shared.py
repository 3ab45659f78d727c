"""Compiled kernels under ``copy`` and ``pickle``."""

from __future__ import annotations

from typing import Self


class Shared:
    """What never changes once it is made: a copy is the object itself.

    Modules that hold kernels are copied whole, for a moving average of their weights for instance.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        """Raise TypeError, as Python does for what holds machine code."""
        kind = type(self).__name__
        raise TypeError(f"cannot pickle '{kind}': save() the kernel, and load the file where it is needed")
