"""Memory of a result that serves for something else until the result is written."""

from __future__ import annotations

from opc.program.ir import Program
from opc.program.liveness import phases


def lender(program: Program, size: int) -> str:
    """The smallest result that can hold all packed buffers, ``size`` bytes together, until it is written: its first
    phase comes after the last one that reads any of them. Empty if there is none.
    """
    packed = {b.name for b in program.buffers if b.kind == "packed"}
    found = phases(program)
    last = max((n for n, names in enumerate(found) if names & packed), default=None)
    if last is None:
        return ""
    used = frozenset[str]().union(*found[: last + 1])
    free = [b for b in program.buffers if b.kind == "output" and b.name not in used and b.slot_bytes >= size]
    return min(free, key=lambda b: (b.slot_bytes, b.name)).name if free else ""
