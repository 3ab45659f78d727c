"""Vectors of elements that lie a few elements apart: whole vectors are loaded, and shuffled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opc.cpu import values
from opc.cpu.function import Function
from opc.cpu.values import Vec
from opc.dtypes import DType

MOST = 4  # elements from lane to lane; from further apart, lanes are loaded one by one


def load(
    f: Function,
    dtype: DType,
    at: Callable[[int], str],
    step: int,
    lanes: int,
    inside: range,
    fill: Vec | None,
) -> Vec:
    """Stored bits of the lanes ``inside``; the others are ``fill``'s, or undefined.

    ``at`` gives the address of an element counted from the first lane's. Nothing is read before the first
    element wanted or behind the last.
    """
    kind = str(dtype)
    first, last = inside[0] * step, inside[-1] * step
    if last - first < lanes:
        starts = [first]
        parts = [values.load_raw(f, dtype, at(first), lanes, last - first + 1)]
    else:
        # The last vector ends at the last element, so it may overlap the one before.
        starts = [*range(first, last - lanes + 1, lanes), last - lanes + 1]
        parts = [values.load_raw(f, dtype, at(s), lanes, lanes) for s in starts]
    result, taken = Vec(kind, lanes, "poison"), set[int]()
    for start, part in zip(starts, parts, strict=True):
        found = {i: i * step - start for i in inside if 0 <= i * step - start < lanes and i not in taken}
        order = [lanes + found[i] if i in found else i if i in taken else -1 for i in range(lanes)]
        result = _shuffle(f, result, part, order)
        taken |= set(found)
    if fill is None or len(taken) == lanes:
        return result
    return _shuffle(f, result, fill, [i if i in taken else lanes + i for i in range(lanes)])


def _shuffle(f: Function, a: Vec, b: Vec, order: Sequence[int]) -> Vec:
    """Lanes by number, those of ``b`` after those of ``a``; -1 is any value."""
    if all(i in (-1, b.lanes + n) for n, i in enumerate(order)):
        return b
    picked = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in order)
    return Vec(
        a.kind,
        a.lanes,
        f.op(f"shufflevector {a.type} {a.ref}, {b.type} {b.ref}, <{a.lanes} x i32> <{picked}>"),
    )
