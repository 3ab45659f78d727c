"""Constant slots by unrolling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import ClassVar

from opc.affine import Affine
from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Access, Buffer, Instr, Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.rewrite import map_accesses, map_instrs, substitute

LIMIT = 1 << 16  # instructions that unrolling one loop may make


@dataclass(frozen=True)
class ExpandSlots:
    """Unroll loops until slots, and indices into registers and tiles, are constants.

    Registers and tiles have no addresses, so an instruction must name them. A loop whose variable moves
    a slot is unrolled by the number of iterations after which the slots repeat; one whose variable moves
    an index into such a space is unrolled completely. The iterations left over follow the loop.
    Parallel loops stay; more than LIMIT instructions raise MachineError E0651. ``addressable`` also expands
    slots in addressable spaces.

    Before:
        program v1 rotate machine avx2 {
          buffer x: f32[5,8]@gm input
          buffer y: f32[5,8]@gm output
          buffer t: f32[8]@reg local slots 2
          loop i < 5 {
            copy_in.copy t{i}[j] = x[i, j] for j<8
            copy_out.copy y[i, j] = t{i}[j] for j<8
          }
        }

    After:
        program v1 rotate machine avx2 {
          buffer x: f32[5,8]@gm input
          buffer y: f32[5,8]@gm output
          buffer t: f32[8]@reg local slots 2
          loop i < 2 {
            copy_in.copy t[j] = x[i*2, j] for j<8
            copy_out.copy y[i*2, j] = t[j] for j<8
            copy_in.copy t{1}[j] = x[i*2 + 1, j] for j<8
            copy_out.copy y[i*2 + 1, j] = t{1}[j] for j<8
          }
          copy_in.copy t[j] = x[4, j] for j<8
          copy_out.copy y[4, j] = t[j] for j<8
        }
    """

    addressable: bool = False
    name: ClassVar[str] = "expand-slots"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        return map_programs(ir, lambda program: self.rewrite(program, context.machine))

    def rewrite(self, ir: Program, machine: Machine) -> Program:
        spaces = machine.spaces
        unaddressed = {b.name: b for b in ir.buffers if b.kind == "local" and not spaces[b.space].addressable}
        slotted = {
            b.name: b for b in ir.buffers if b.slots > 1 and (self.addressable or b.name in unaddressed)
        }
        if not unaddressed and not slotted:
            return ir
        expanded = _expand(ir.body, slotted, unaddressed)

        def access(a: Access) -> Access:
            return replace(a, slot=_reduced(a.slot, slotted[a.buffer].slots)) if a.buffer in slotted else a

        body = map_instrs(expanded, lambda i: map_accesses(i, access))
        return ir if body == ir.body else ir.with_body(body)


def _expand(
    body: tuple[Stmt, ...], slotted: Mapping[str, Buffer], unaddressed: Mapping[str, Buffer]
) -> tuple[Stmt, ...]:
    """The body with every loop unrolled as far as its own variable needs, innermost first."""
    result: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Instr):
            result.append(stmt)
            continue
        factor = 1 if stmt.parallel else _factor(stmt, slotted, unaddressed)
        inner = replace(stmt, body=_expand(stmt.body, slotted, unaddressed))
        result += _unroll(inner, factor)
    return tuple(result)


def _factor(loop: Loop, slotted: Mapping[str, Buffer], unaddressed: Mapping[str, Buffer]) -> int:
    """Iterations to unroll: 1 for none, 0 for all."""
    factor = 1
    for instr, _ in instructions(loop.body):
        for a in (*instr.dst, *instr.sources):
            if a.buffer in unaddressed and any(loop.var in form.names for form in a.index):
                return 0
            if a.buffer in slotted:
                slots = slotted[a.buffer].slots
                factor = lcm(factor, slots // gcd(a.slot.coefficient(loop.var), slots))
    return factor


def _unroll(loop: Loop, factor: int) -> list[Stmt]:
    """``factor`` iterations per new iteration, then the remainder; all of them if fewer than two remain."""
    if factor == 1:
        return [loop]
    trips = loop.extent // factor if factor else 0
    copied = (factor + loop.extent % factor) if trips >= 2 else loop.extent
    size = sum(1 for _ in instructions(loop.body))
    if copied * size > LIMIT:
        message = f"loop '{loop.var}' would have to be unrolled into {copied * size} instructions"
        raise fail(
            MachineError, "E0651", message, help="give its buffers an address, or choose smaller tiles"
        )

    def copies(values: list[Affine]) -> list[Stmt]:
        return [substitute(s, {loop.var: v}) for v in values for s in loop.body]

    if trips < 2:
        return copies([Affine((), n) for n in range(loop.extent)])
    steady = copies([Affine.var(loop.var, factor) + n for n in range(factor)])
    rest = copies([Affine((), n) for n in range(trips * factor, loop.extent)])
    return [replace(loop, extent=trips, body=tuple(steady)), *rest]


def _reduced(slot: Affine, slots: int) -> Affine:
    """The same slot with every number below ``slots``."""
    return Affine.of({name: c % slots for name, c in slot.terms}, slot.const % slots)
