"""How much arithmetic and traffic a kernel has, counted on its tensor IR."""

from __future__ import annotations

import math
from dataclasses import dataclass

from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Function, walk

# Converting a value or choosing one is no arithmetic.
_COUNTED = frozenset({"arithmetic", "float", "compare"})


@dataclass(frozen=True, slots=True)
class Work:
    """``operations``: scalar functions evaluated, a multiply-add counting as two. ``bytes``: arguments and
    results, each moved once: the least traffic any kernel can have.
    """

    operations: int
    bytes: int


def work_of(function: Function) -> Work:
    """Count the work of one call."""
    operations = 0
    for op in function.ops:
        for piece in op.pieces:
            calls = sum(isinstance(n, Call) and FUNCTIONS[n.fn].kind in _COUNTED for n in walk(piece.body))
            operations += math.prod(piece.extents.values()) * (calls + (op.monoid is not None))
    table = function.tensors()
    names = [a.tensor.name for a in function.args]
    names += [r for r in function.results if r not in names]
    return Work(operations, sum(table[n].size * table[n].dtype.bytes for n in names))
