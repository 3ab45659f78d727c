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
    along, so that blocks of rows can be copied next to each other.
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

    @property
    def every(self) -> tuple[Dim, ...]:
        """All dims."""
        return (*self.batch, *self.rows, self.column, *self.others, *self.summed)


def outer_shape(
    c: Contraction, rows: tuple[Dim, ...], tensors: Mapping[str, Tensor], operand: DType, accumulator: DType
) -> OuterShape:
    """The dims by what they do; ``rows`` slowest first in the result's memory."""
    column = nearest(c.b, pure(c.b, c.n, c), tensors)
    summed = sorted(c.k, key=lambda d: -apart(tensors[c.b.tensor], c.b, d.name))
    return OuterShape(
        c.batch, rows, column, tuple(d for d in c.n if d is not column), tuple(summed), c.a, c.b,
        len(rows) == 1 and pure(c.a, rows, c) == rows, operand, accumulator,
    )  # fmt: skip
