"""Reading and writing arrays at affine indices, without a loop in Python.

Every value lives on the axes of its piece's dimensions, parallel before reduced, with extent 1
along dimensions it does not depend on; NumPy broadcasting then does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from opc.affine import Affine
from opc.tensor.bound import Array


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a domain: names of the dimensions, their first value and their extent."""

    names: tuple[str, ...]
    starts: tuple[int, ...]
    extents: tuple[int, ...]

    def shape_of(self, forms: Sequence[Affine]) -> tuple[int, ...]:
        """Broadcast shape of something that depends on the dimensions of ``forms``."""
        used = {name for form in forms for name in form.names}
        return tuple(e if n in used else 1 for n, e in zip(self.names, self.extents, strict=True))

    def interval(self, form: Affine) -> tuple[int, int]:
        """Least and greatest value of ``form``."""
        low = high = form.const
        for name, c in form.terms:
            i = self.names.index(name)
            first, last = self.starts[i], self.starts[i] + self.extents[i] - 1
            low, high = low + c * (first if c > 0 else last), high + c * (last if c > 0 else first)
        return low, high

    def values(self, form: Affine) -> Array:
        """The values of ``form`` over the block, as int64."""
        total = np.full((1,) * len(self.names), form.const, dtype=np.int64)
        for name, c in form.terms:
            i = self.names.index(name)
            line = c * np.arange(self.starts[i], self.starts[i] + self.extents[i], dtype=np.int64)
            total = total + line.reshape([-1 if j == i else 1 for j in range(len(self.names))])
        return total

    def mask(self, guards: Sequence[Affine]) -> Array | None:
        """Where all guards hold; None if everywhere."""
        mask: Array | None = None
        for guard in guards:
            if self.interval(guard)[0] < 0:
                holds = self.values(guard) >= 0
                mask = holds if mask is None else mask & holds
        return mask


class Source:
    """An array that reads go to; keeps its padded copies while one piece is evaluated."""

    def __init__(self, array: Array, whole: Block) -> None:
        self.array = np.asarray(array, order="C")
        self.whole = whole
        self.padded: dict[tuple[object, ...], Array] = {}

    def read(self, index: Sequence[Affine], block: Block, fill: float | int) -> Array:
        """``array[index]`` over ``block``; elements outside the array are ``fill``."""
        reach = [self.whole.interval(form) for form in index]
        before = [max(0, -low) for low, _ in reach]
        after = [max(0, high - n + 1) for (_, high), n in zip(reach, self.array.shape, strict=True)]
        grown = prod(n + b + a for n, b, a in zip(self.array.shape, before, after, strict=True))
        if grown > 4 * (self.array.size + prod(block.shape_of(index))) + 2**20:
            return self._pick(index, block, fill)
        base = self.array
        if any(before) or any(after):
            key = (*before, *after, repr(fill))
            if key not in self.padded:
                pads = list(zip(before, after, strict=True))
                self.padded[key] = np.pad(self.array, pads, constant_values=fill)
            base = self.padded[key]
        return strided(base, [f + b for f, b in zip(index, before, strict=True)], block)

    def _pick(self, index: Sequence[Affine], block: Block, fill: float | int) -> Array:
        """Gather with index arrays, for reads that reach far outside."""
        shape = block.shape_of(index)
        inside = np.ones(shape, dtype=bool)
        places = []
        for form, extent in zip(index, self.array.shape, strict=True):
            at = block.values(form)
            inside &= (at >= 0) & (at < extent)
            places.append(np.broadcast_to(np.clip(at, 0, extent - 1), shape))
        return np.where(inside, self.array[tuple(places)], np.asarray(fill, dtype=self.array.dtype))


def strided(base: Array, index: Sequence[Affine], block: Block, whole: bool = False) -> Array:
    """A view of ``base`` at affine indices that stay inside it; ``whole`` keeps unused dimensions
    at their extent (only for views that are written).
    """
    assert base.flags.c_contiguous, "flat positions must be affine in the indices"
    flat = base.reshape(-1)
    offset = 0
    steps = dict.fromkeys(block.names, 0)
    stride = 1
    for form, extent in zip(reversed(index), reversed(base.shape), strict=True):
        offset += stride * form.const
        for name, c in form.terms:
            steps[name] += stride * c
        stride *= extent
    shape, strides = [], []
    for name, start, extent in zip(block.names, block.starts, block.extents, strict=True):
        offset += steps[name] * start
        shape.append(extent if steps[name] or whole else 1)
        strides.append(steps[name] * base.itemsize)
    return as_strided(flat[offset:], shape, strides)


def write(target: Array, index: Sequence[Affine], block: Block, values: Any, mask: Array | None) -> None:
    """``target[index] = values`` over ``block``, only where ``mask`` holds."""
    if mask is None:
        strided(target, index, block, whole=True)[...] = values
        return
    # Unmasked points may lie outside the target, so no view of them may exist.
    places = np.zeros((1,) * len(block.names), dtype=np.int64)
    for form, extent in zip(index, target.shape, strict=True):
        places = places * extent + block.values(form)
    shape = block.extents
    chosen = np.broadcast_to(mask, shape)
    at = np.broadcast_to(places, shape)[chosen]
    target.reshape(-1)[at] = np.broadcast_to(values, shape)[chosen]
