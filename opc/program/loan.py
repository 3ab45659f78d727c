"""Memory of a result that serves for something else until the result is written."""

from __future__ import annotations

from collections.abc import Collection

from opc.program.ir import Program
from opc.program.liveness import phases


def lenders(program: Program, packed: int, workspace: int) -> tuple[str, str]:
    """The results that lend their memory to packed parameters and to workspace of so many bytes: two, or one that lends
    to what is larger.
    """
    first, second = lender(program, "packed", packed), lender(program, "workspace", workspace)
    if first != second:
        return first, second
    if packed >= workspace:
        return first, lender(program, "workspace", workspace, first)
    return lender(program, "packed", packed, second), second


def lender(program: Program, kind: str, size: int, but: str = "") -> str:
    """The smallest result that can hold all buffers of a ``kind``, packed or workspace, ``size`` bytes together, until
    it is written: its first phase comes after the last one that uses any of them. Empty if there is none, ``but`` that.
    """
    lent = {b.name for b in program.buffers if b.kind == kind}
    found: list[Collection[str]] = list(phases(program))
    last = max((n for n, names in enumerate(found) if lent.intersection(names)), default=None)
    if last is None:
        return ""
    used = {name for names in found[: last + 1] for name in names}
    used.add(but)
    free = [b for b in program.buffers if b.kind == "output" and b.name not in used and b.slot_bytes >= size]
    return min(free, key=lambda b: (b.slot_bytes, b.name)).name if free else ""
