"""Reductions: vector.reduce_*."""

from __future__ import annotations

from opc.cpu.function import Function
from opc.cpu.layout import View
from opc.program.ir import Instr


def emit(f: Function, instr: Instr, dst: tuple[View, ...], src: tuple[View | float | int, ...]) -> None:
    raise NotImplementedError(instr.opcode)
