"""Copies whose source index may leave its buffer, and the tests that say where it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opc.affine import Affine
from opc.cpu import values
from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.cpu.values import Vec
from opc.program.ir import Access, Buffer, Instr


@dataclass(frozen=True, slots=True)
class Check:
    """``0 <= form < size``."""

    form: Affine
    size: int


@dataclass(frozen=True, slots=True)
class Gather:
    """A copy some of whose source indices may leave the source buffer."""

    instr: Instr
    dst: View
    src: View
    checks: tuple[Check, ...]
    loops: dict[str, int]  # extents of the loops around


def checks_of(instr: Instr, source: Access, buffer: Buffer, loops: dict[str, int]) -> tuple[Check, ...]:
    """The axes of ``source`` that interval arithmetic cannot prove inside."""
    extents = {**loops, **instr.extents}
    found = []
    for form, size in zip(source.index, buffer.shape, strict=True):
        low, high = form.interval(extents)
        if low < 0 or high >= size:
            found.append(Check(form, size))
    return tuple(found)


def fill_of(f: Function, g: Gather, lanes: int) -> Vec:
    """The fill value as the source's type holds it, in its compute type."""
    value = values.splat(str(g.src.dtype.compute), lanes, g.instr.fill or 0)
    return values.widen(f, g.src.dtype, values.narrow(f, g.src.dtype, value))


def holds(f: Function, c: Check) -> str:
    """The check as one unsigned comparison."""
    value = f.index(c.form)
    if isinstance(value, int):
        return "true" if 0 <= value < c.size else "false"
    return f.hoisted(f"icmp ult i64 {value}, {c.size}", value)


def all_of(f: Function, conditions: Sequence[str]) -> str:
    """All conditions at once."""
    total = conditions[0]
    for c in conditions[1:]:
        total = f.hoisted(f"and i1 {total}, {c}", total, c)
    return total
