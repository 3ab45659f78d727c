"""Loops unrolled into flat lists: which instruction runs when, and what an affine form is each time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from opc.affine import Affine
from opc.program.ir import Instr, Stmt

Ranges = Sequence[tuple[str, range]]  # loop variables and their values, outermost first


def values(form: Affine, ranges: Ranges) -> list[int]:
    """The form's value at each execution, in order."""
    if form.is_const:
        return [form.const] * prod(map(len, dict(ranges).values()))
    found = [form.const]
    repeat = 1
    # Outermost first: every known value is followed by its inner iterations.
    for var, numbers in ranges:
        c = form.coefficient(var)
        if c:
            found = [v for base in found for v in [base] * repeat] if repeat > 1 else found
            repeat = 1
            found = [base + c * v for base in found for v in numbers]
        else:
            repeat *= len(numbers)
    return [v for v in found for _ in range(repeat)] if repeat > 1 else found


def text_order(body: Sequence[Stmt], first: int = 0) -> tuple[list[int], int]:
    """Numbers of the instructions (counted in text order from ``first``) as they run, and the next number."""
    order: list[int] = []
    for s in body:
        if isinstance(s, Instr):
            order.append(first)
            first += 1
        else:
            inner, first = text_order(s.body, first)
            order += inner * s.extent
    return order, first


def length(body: Sequence[Stmt]) -> int:
    """How many instructions the body runs."""
    return sum(1 if isinstance(s, Instr) else s.extent * length(s.body) for s in body)
