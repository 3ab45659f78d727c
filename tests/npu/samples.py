"""Hand-placed, naively synchronised programs for the NPU tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from opc.affine import Affine
from opc.machine import Machine, load
from opc.program.ir import Instr, Loop, Program, Stmt
from opc.program.text import parse_program

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
BARRIER = Instr("sync.barrier", flag=("ALL", "ALL", Affine()))


def machine() -> Machine:
    return load("ascend910")


def sample() -> Program:
    return parse_program((SAMPLES / "conv_bn_relu.ascend910.program").read_text())


def place(program: Program, machine: Machine) -> Program:
    """Every local slot at its own aligned offset."""
    top: dict[str, int] = {}
    buffers = []
    for b in program.buffers:
        if b.kind == "local":
            offsets = []
            for _ in range(b.slots):
                align = machine.spaces[b.space].align
                at = -(-top.get(b.space, 0) // align) * align
                top[b.space] = at + b.slot_bytes
                offsets.append(at)
            b = replace(b, offsets=tuple(offsets))
        buffers.append(b)
    return replace(program, buffers=tuple(buffers))


def barriers(program: Program) -> Program:
    """A barrier across every pipe after every instruction: slow and certainly ordered."""

    def walk(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for s in body:
            found += [replace(s, body=walk(s.body))] if isinstance(s, Loop) else [s, BARRIER]
        return tuple(found)

    # A bare top-level statement is a phase of its own and needs no barrier.
    return program.with_body(
        tuple(replace(s, body=walk(s.body)) if isinstance(s, Loop) else s for s in program.body)
    )
