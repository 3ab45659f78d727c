"""Hand-placed, naively synchronised programs for the NPU tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from opc.affine import Affine
from opc.machine import Machine, load
from opc.program.ir import Instr, Loop, Program, Stmt
from opc.program.pipes import pipe_of
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


def chained(program: Program, machine: Machine) -> Program:
    """Each instruction waits for the one before it, by a flag or a barrier."""
    table = program.table()

    def sync(a: Instr, b: Instr) -> list[Stmt]:
        first, then = pipe_of(a, table, machine), pipe_of(b, table, machine)
        if first == then:
            flag = (first, first, Affine())
            return [Instr("sync.barrier", flag=flag)] if first in machine.unordered_pipes else []
        flag = (first, then, Affine())
        return [Instr("sync.set_flag", flag=flag), Instr("sync.wait_flag", flag=flag)]

    def walk(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        last: Instr | None = None
        for s in body:
            if isinstance(s, Loop):
                found += [BARRIER, replace(s, body=(*walk(s.body), BARRIER)), BARRIER]
                last = None
            else:
                found += sync(last, s) if last is not None else []
                found.append(s)
                last = s
        return tuple(found)

    body = tuple(
        replace(s, body=(*walk(s.body), BARRIER)) if isinstance(s, Loop) else s for s in program.body
    )
    return program.with_body(body)


PIPELINED = """\
listing v1 scale machine ascend910
tensor x: f16[2,8,64] input
tensor y: f16[2,8,64] output
buffer a: ub 128 at 0, 128
buffer b: ub 128 at 256, 384
core c < 2 {
  set_flag V, MTE2, 0
  set_flag V, MTE2, 1
  set_flag MTE3, V, 0
  set_flag MTE3, V, 1
  loop i < 8 {
    wait_flag V, MTE2, i mod 2
    MTE2 copy_gm_to_ub f16@ub[(0, 128)[i mod 2] | j:2] = f16@gm:x[c*1024 + i*128 | j:2] for j<64 {line=1}
    set_flag MTE2, V, i mod 2
    wait_flag MTE2, V, i mod 2
    wait_flag MTE3, V, i mod 2
    V vmuls f16@ub[(256, 384)[i mod 2] | j:2] = f16@ub[(0, 128)[i mod 2] | j:2], 2.0 for j<64 {line=2}
    set_flag V, MTE2, i mod 2
    pipe_barrier V
    V vadds f16@ub[(256, 384)[i mod 2] | j:2] = f16@ub[(256, 384)[i mod 2] | j:2], 1.0 for j<64 {line=3}
    set_flag V, MTE3, i mod 2
    wait_flag V, MTE3, i mod 2
    MTE3 copy_ub_to_gm f16@gm:y[c*1024 + i*128 | j:2] = f16@ub[(256, 384)[i mod 2] | j:2] for j<64 {line=4}
    set_flag MTE3, V, i mod 2
  }
  wait_flag V, MTE2, 0
  wait_flag V, MTE2, 1
  wait_flag MTE3, V, 0
  wait_flag MTE3, V, 1
}
"""
