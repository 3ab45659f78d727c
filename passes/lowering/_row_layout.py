"""Where the rows of operand A lie: in their tensor, or in a padded and reordered copy of it.

A tile register is loaded from rows at one constant distance, each holding consecutive K elements. Rows of one
image row always have that; rows of several images or of several image rows only in a copy that puts them
side by side, which is what ``inner`` and ``split`` ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import gcd, prod

from opc.affine import Affine
from opc.tensor.ir import Dim, Read, Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """An axis of the rows: ``position`` over the contraction's dims, walking tensor axis ``axis`` in ``step``s, which
    are negative where it goes backwards.
    """

    axis: int
    position: Affine
    count: int
    step: int


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Parts, slowest first, and the least index of every tensor axis relative to the slab's base."""

    parts: tuple[Part, ...]
    low: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(p.count for p in self.parts)

    def linear(self) -> Affine:
        """The element's number over the contraction's dims."""
        total, step = Affine(), 1
        for part in reversed(self.parts):
            total = total + part.position * step
            step *= part.count
        return total


def in_place(read: Read, tensor: Tensor) -> RowLayout:
    """The tensor as it lies in memory."""
    parts = tuple(Part(a, read.index[a], tensor.shape[a], 1) for a in tensor.memory_order)
    return RowLayout(parts, (0,) * len(tensor.shape))


def copied(
    read: Read,
    tensor: Tensor,
    extents: Mapping[str, int],
    summed: Collection[str],
    room: int,
    inner: str = "",
    split: Collection[int] = (),
    pair: str = "",
) -> RowLayout:
    """A copy of what dims of these extents touch; dims without an extent stay outside.

    Axes that only summed dims walk come last, so that K is contiguous; before them the axis of ``inner``.
    Blocks of such an axis, of what one tile row has ``room`` for, come first: a window over one block lies close
    together. Where an axis is in ``split``, summed dims that share it with others get an axis of their own.
    What ``pair`` walks comes last of all: the cube wants consecutive ones of it side by side.
    """
    parts: list[Part] = []
    low = [0] * len(tensor.shape)
    for axis in tensor.memory_order:
        form, _ = read.index[axis].split(n for n, e in extents.items() if e > 1)
        low[axis] = form.interval(extents)[0]
        window, rest = form.split(summed)
        if window.terms and not rest.terms:
            parts += _blocks(axis, form, extents, room)
            continue
        if not (axis in split and window.terms):
            parts.append(_part(axis, form, extents))
            continue
        parts += [_part(axis, Affine.var(name, c), extents) for name, c in window.terms]
        parts.append(_part(axis, rest, extents))
    for part in parts:
        low[part.axis] += (part.count - 1) * max(0, -part.step)  # it starts from its end
    kept = [p for p in parts if p.count > 1] or parts[-1:]

    last = {
        max((i for i, p in enumerate(kept) if p.axis == axis), default=-1) for axis in tensor.memory_order
    }

    def place(at: int) -> int:
        names = kept[at].position.names
        if names and names <= set(summed):
            return 4 if pair in names else 3 if at in last else 0
        return 2 if inner and names == {inner} else 1

    return RowLayout(tuple(kept[at] for at in sorted(range(len(kept)), key=place)), tuple(low))


def _blocks(axis: int, form: Affine, extents: Mapping[str, int], room: int) -> list[Part]:
    """An axis that summed dims walk alone: its outermost dim apart where that walks in blocks of about ``room``."""
    outer, step = max(form.terms, key=lambda t: abs(t[1]))
    rest = Affine(tuple(t for t in form.terms if t[0] != outer), form.const)
    low, high = rest.interval(extents)
    if step <= high - low or 2 * (high - low + 1) <= room:
        return [_part(axis, form, extents)]
    return [_part(axis, Affine.var(outer, step), extents), _part(axis, rest, extents)]


def _part(axis: int, form: Affine, extents: Mapping[str, int]) -> Part:
    """What a form walks, backwards where all of its dims do: consecutive ones then follow each other in the copy."""
    low, high = form.interval(extents)
    step = gcd(*(c for _, c in form.terms)) or 1
    back = bool(form.terms) and all(c < 0 for _, c in form.terms)
    step, start = (-step, high) if back else (step, low)
    position = Affine(tuple((v, c // step) for v, c in form.terms), -start // step)
    return Part(axis, position, (high - low) // abs(step) + 1, step)


def contiguous(layout: RowLayout, k: tuple[Dim, ...], room: int) -> dict[str, int]:
    """Elements of each K dim in one chunk: as many consecutive ones as there is room for, in equal chunks."""
    form, size = layout.linear(), 1
    chunk = {d.name: 1 for d in k}
    for d in reversed(k):
        if d.extent > 1 and form.coefficient(d.name) != size:
            break
        fits = max(n for n in range(1, min(d.extent, room // size) + 1) if d.extent % n == 0)
        chunk[d.name] = fits
        size *= fits
        if fits < d.extent:
            break
    return chunk


def copy_dims(layout: RowLayout) -> list[tuple[str, int]]:
    """Dims of the copy, one per part."""
    return [(f"h{i}", p.count) for i, p in enumerate(layout.parts)]


def copy_source(layout: RowLayout, base: tuple[Affine, ...]) -> list[Affine]:
    """Tensor indices of the copy over ``copy_dims``; ``base``: where the slab starts on every axis."""
    index = [b + low for b, low in zip(base, layout.low, strict=True)]
    for i, p in enumerate(layout.parts):
        if p.count > 1:
            index[p.axis] = index[p.axis] + Affine.var(f"h{i}", p.step)
    return index


def row_bytes(layout: RowLayout, size: int) -> int:
    """Bytes of the whole copy."""
    return layout.elements * size
