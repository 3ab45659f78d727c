"""Matrices that are zero off their diagonals, next to the vector unit."""

from __future__ import annotations

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access, Imm
from passes.lowering._emit import Emitter

_I, _J = Affine.var("i_"), Affine.var("j_")


def diagonal(emit: Emitter, side: int) -> str:
    """1 on the diagonal of a block, 0 elsewhere."""
    apart, mask = (emit.local("diagonal", DType.I32, [side, side], "vector") for _ in range(2))
    dims, at = [("i_", side), ("j_", side)], (_I, _J)
    emit.emit("vector.iota", dims, [Access(apart, at)], [], form=_I - _J)
    emit.emit("vector.eq", dims, [Access(mask, at)], [Access(apart, at), Imm(0)])
    return mask
