"""The dynamic trace of one core: loops unrolled into instruction numbers and address lists.

The k-th execution of static instruction ``j`` is entry k of each of its lists, so a trace of a million
instructions is a flat list of small numbers and no environment is ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

from opc.affine import Affine
from opc.errors import ListingError, fail
from opc.npu.listing import Instruction, Phase, Region, Statement, instructions
from opc.program.unroll import values

LIMIT = 20_000_000  # instructions of one core in one phase
Ranges = tuple[tuple[str, range], ...]


@dataclass(frozen=True, slots=True)
class Static:
    """An instruction of the text with the loops around it (the core index first)."""

    number: int
    instruction: Instruction
    ranges: Ranges

    @property
    def count(self) -> int:
        n = 1
        for _, numbers in self.ranges:
            n *= len(numbers)
        return n

    def values(self, form: Affine) -> list[int]:
        """The form's value at each execution, in order."""
        return values(form, self.ranges)

    def addresses(self, region: Region) -> list[int]:
        """Address of the region's first element at each execution."""
        base = self.values(region.base)
        if not region.table:
            return base
        table, n = region.table, len(region.table)
        return [table[s % n] + b for s, b in zip(self.values(region.select), base, strict=True)]

    def environment(self, execution: int) -> dict[str, int]:
        """The loop variables of one execution, for messages."""
        env: dict[str, int] = {}
        for var, numbers in reversed(self.ranges):
            execution, at = divmod(execution, len(numbers))
            env[var] = numbers[at]
        return {var: env[var] for var, _ in self.ranges}


@dataclass(frozen=True, slots=True)
class Trace:
    """``order`` lists static instruction numbers in program order."""

    statics: tuple[Static, ...]
    order: list[int]


def expand(phase: Phase, iterations: range) -> Trace:
    """The trace of one core that runs ``iterations`` of a phase; ListingError E0821 if it is too long."""
    length = _length(phase.body) * len(iterations)
    if length > LIMIT:
        message = f"core '{phase.var} < {phase.extent}' executes {length} instructions, more than {LIMIT}"
        raise fail(ListingError, "E0821", message, help="use larger tiles or fewer iterations")
    order, _ = _order(phase.body, 0)
    return Trace(statics(phase, iterations), order * len(iterations))


def statics(phase: Phase, iterations: range) -> tuple[Static, ...]:
    """The static instructions of a phase as they run in ``iterations``."""
    outer = (phase.var, iterations)
    known: dict[int, Ranges] = {}  # instructions of one body share their loops
    found = []
    texts = list(instructions(phase.body))  # keeps the loops, whose identity stands for them
    for n, (i, loops) in enumerate(texts):
        ranges = known.get(id(loops))
        if ranges is None:
            ranges = known[id(loops)] = (outer, *((loop.var, range(loop.extent)) for loop in loops))
        found.append(Static(n, i, ranges))
    return tuple(found)


def _length(body: tuple[Statement, ...]) -> int:
    return sum(1 if isinstance(s, Instruction) else s.extent * _length(s.body) for s in body)


def _order(body: tuple[Statement, ...], first: int) -> tuple[list[int], int]:
    order: list[int] = []
    for s in body:
        if isinstance(s, Instruction):
            order.append(first)
            first += 1
        else:
            inner, first = _order(s.body, first)
            order += inner * s.extent
    return order, first
