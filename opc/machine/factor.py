"""What a drain of the accumulator may multiply by."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from opc.dtypes import DType


@dataclass(frozen=True, slots=True)
class Factor:
    """``results``: by the accumulator's type what a product with a factor may become. ``bits``: those of a factor's
    significand that the drain keeps. ``space``: where factors per column lie; empty if one serves all columns.
    """

    results: dict[DType, tuple[DType, ...]]
    bits: int
    space: str = ""

    def __str__(self) -> str:
        made = (f"{source} to {' or '.join(types)}" for source, types in self.results.items())
        where = f"one, or one per column in {self.space}" if self.space else "one"
        return f"{where}; {self.bits} bits; {', '.join(made)}"

    def holds(self, value: float) -> bool:
        """Whether a literal factor, which is an f32, is used as it is."""
        try:
            (rounded,) = struct.unpack("f", struct.pack("f", value))
        except OverflowError:
            return False
        significand, exponent = math.frexp(rounded)
        normal = math.isfinite(rounded) and (rounded == 0 or exponent > -126)
        return normal and (significand * 2**self.bits).is_integer()

    def problem(self, accumulator: DType, result: DType, factor: float | tuple[DType, str]) -> str:
        """Why a drain cannot multiply by a literal, or by factors of a (type, space); empty if it can."""
        if result not in self.results.get(accumulator, ()):
            return f"drains no {accumulator} times a factor as {result}"
        if not isinstance(factor, tuple):
            return "" if self.holds(factor) else f"keeps {self.bits} bits of a factor, too few for {factor}"
        dtype, space = factor
        if not self.space or space != self.space:
            where = f"in '{self.space}'" if self.space else "as literals"
            return f"takes the factors of a drain {where}, not in '{space}'"
        fits = dtype is DType.F32 and self.bits >= _F32_BITS
        return "" if fits else f"keeps {self.bits} bits of a factor, too few for {dtype}"


_F32_BITS = 24
