"""A contraction that sums outer products: which of its dims are rows, columns and windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opc.dtypes import DType
from opc.tensor.ir import Dim, Read, Tensor
from passes.tensor._contraction import Contraction
from passes.tensor._outer_products import apart, nearest, pure


@dataclass(frozen=True, slots=True)
class OuterShape:
    """``rows``: dims of operand A alone; ``column``: the dim along which B's vectors lie; ``others``: the remaining
    dims of B alone, windows among them. ``panels``: there is one row dim, on an axis of A that no summed dim moves
    along, so that blocks of rows can be copied next to each other. ``group``: the terms that the cube multiplies at
    once are a summed dim of their own, which is whole in every chunk of the others.
    """

    batch: tuple[Dim, ...]
    rows: tuple[Dim, ...]
    column: Dim
    others: tuple[Dim, ...]
    summed: tuple[Dim, ...]  # slowest in memory first
    a: Read
    b: Read
    panels: bool
    operand: DType
    accumulator: DType
    group: Dim | None = None

    @property
    def every(self) -> tuple[Dim, ...]:
        """All dims."""
        group = (self.group,) if self.group is not None else ()
        return (*self.batch, *self.rows, self.column, *self.others, *self.summed, *group)

    @property
    def depth(self) -> int:
        """Terms that the cube multiplies at once."""
        return self.group.extent if self.group is not None else 1


def outer_shape(
    c: Contraction,
    rows: tuple[Dim, ...],
    tensors: Mapping[str, Tensor],
    operand: DType,
    accumulator: DType,
    group: Dim | None,
) -> OuterShape:
    """The dims by what they do; ``rows`` slowest first in the result's memory."""
    column = nearest(c.b, pure(c.b, c.n, c), tensors)
    summed = sorted((d for d in c.k if d != group), key=lambda d: -apart(tensors[c.b.tensor], c.b, d.name))
    return OuterShape(
        c.batch, rows, column, tuple(d for d in c.n if d is not column), tuple(summed), c.a, c.b,
        len(rows) == 1 and pure(c.a, rows, c) == rows, operand, accumulator, group,
    )  # fmt: skip
