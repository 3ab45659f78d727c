"""Random programs without loops, of any length."""

from __future__ import annotations

from random import Random

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine import Machine
from opc.program.ir import Access, Buffer, Instr, Loop, Program

WIDTH = 64
_DIMS = (("j", WIDTH),)


def row(name: str, n: int | None = None) -> Access:
    """A row of a buffer."""
    j = Affine.var("j")
    return Access(name, (j,) if n is None else (Affine((), n), j))


def line(machine: Machine, length: int, seed: int, buffers: int = 6) -> Program:
    """Random loads, vector work and stores of a few rows."""
    draw = Random(seed)
    names = [f"t{n}" for n in range(buffers)]
    table = [Buffer(name, DType.F16, (WIDTH,), machine.roles["vector"]) for name in names]
    table += [Buffer(name, DType.F16, (8, WIDTH), machine.roles["memory"], "inout") for name in "xy"]
    # Everything is written first: a read of what nothing wrote would be a report of its own.
    body = [Instr("copy_in.copy", _DIMS, (row(name),), (row("x", 0),)) for name in names]
    while len(body) < length:
        one, two, three = (row(draw.choice(names)) for _ in range(3))
        memory = row(draw.choice("xy"), draw.randrange(8))
        kind = draw.randrange(3)
        if kind == 0:
            body.append(Instr("copy_in.copy", _DIMS, (one,), (memory,)))
        elif kind == 1:
            body.append(Instr("copy_out.copy", _DIMS, (memory,), (one,)))
        else:
            body.append(Instr("vector.add", _DIMS, (one,), (two, three)))
    return Program("line", machine.name, tuple(table), (Loop("core", 1, tuple(body), True),))
