"""Axes of a tile: how the dimensions of an operation map onto the axes of on-chip buffers.

A contraction's tile has a row axis (its M dimensions flattened) and a column axis (N); other
operations have one axis per dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from opc.affine import Affine


@dataclass(frozen=True, slots=True)
class Axis:
    """A buffer axis that flattens ``dims`` (name, size), first slowest."""

    name: str
    dims: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return prod(size for _, size in self.dims)

    def flat(self) -> Affine:
        """The axis index as a form of its dimensions."""
        form = Affine()
        for name, size in self.dims:
            form = form * size + (Affine.var(name) if size > 1 else Affine())
        return form


@dataclass(frozen=True, slots=True)
class Frame:
    """The tile an instruction sequence works on: its axes and where each dimension starts."""

    axes: tuple[Axis, ...]
    base: dict[str, Affine]

    def global_form(self, form: Affine) -> Affine:
        """An index over whole dimensions, restated over tile-local ones."""
        values: dict[str, Affine | int] = {}
        for axis in self.axes:
            for name, size in axis.dims:
                values[name] = self.base[name] + (Affine.var(name) if size > 1 else Affine())
        for name, base in self.base.items():
            values.setdefault(name, base)
        return form.substitute(values)

    def used(self, forms: Iterable[Affine]) -> tuple[Axis, ...]:
        """Axes of which at least one dimension occurs in the forms."""
        names = {v for form in forms for v in form.names}
        return tuple(a for a in self.axes if any(n in names for n, s in a.dims if s > 1))

    def dims(self, axes: Iterable[Axis]) -> list[tuple[str, int]]:
        """Local dimensions of the axes, in order."""
        return [d for a in axes for d in a.dims]

    def axis_dims(self, axes: Iterable[Axis]) -> list[tuple[str, int]]:
        """The axes themselves as instruction dimensions."""
        return [(a.name, a.size) for a in axes]
