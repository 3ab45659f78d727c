"""Reorder the statements of each body so that the pipes wait for each other less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opc.collection import paused
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Module, Program, Stmt, map_programs
from opc.program.reorder import GAIN, reorder
from passes.program._judge import judged
from passes.program._shapes import mix
from passes.program._spread import spread


@dataclass(frozen=True)
class ListSchedule:
    """List scheduling by critical path over the dependences of region overlap, loop-carried ones included.

    Works on each body by itself, innermost first; an inner loop is one statement there. Statements are
    taken pipe by pipe, longest remaining path first; the model of ``opc.program.estimate`` decides
    whether the new order saves at least ``gain`` of the time; otherwise the given one stays.
    Where one stream of instructions feeds all pipes (a machine with a ``window``), vector work is spread evenly
    among the multiplications instead, and every load of an operand goes right before its first use.

    Before:
        program v1 two_chains machine ascend910 {
          buffer x: f32[1024]@gm input
          buffer z: f32[2048]@gm input
          buffer y: f32[1024]@gm output
          buffer w: f32[2048]@gm output
          buffer a: f32[1024]@ub local
          buffer b: f32[2048]@ub local
          parallel core < 1 {
            copy_in.copy a[j] = x[j] for j<1024
            vector.exp a[j] = a[j] for j<1024
            copy_out.copy y[j] = a[j] for j<1024
            copy_in.copy b[j] = z[j] for j<2048
            vector.exp b[j] = b[j] for j<2048
            vector.exp b[j] = b[j] for j<2048
            copy_out.copy w[j] = b[j] for j<2048
          }
        }

    After:
        program v1 two_chains machine ascend910 {
          buffer x: f32[1024]@gm input
          buffer z: f32[2048]@gm input
          buffer y: f32[1024]@gm output
          buffer w: f32[2048]@gm output
          buffer a: f32[1024]@ub local
          buffer b: f32[2048]@ub local
          parallel core < 1 {
            copy_in.copy b[j] = z[j] for j<2048
            copy_in.copy a[j] = x[j] for j<1024
            vector.exp b[j] = b[j] for j<2048
            vector.exp a[j] = a[j] for j<1024
            vector.exp b[j] = b[j] for j<2048
            copy_out.copy y[j] = a[j] for j<1024
            copy_out.copy w[j] = b[j] for j<2048
          }
        }
    """

    gain: float = GAIN
    name: ClassVar[str] = "list-schedule"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with statements reordered; the same object if no order is better."""
        machine = context.machine
        if machine.window:
            return mix(ir, machine, lambda p: spread(p, machine))
        with paused():
            return map_programs(ir, lambda p: self.better(p, reorder(p, machine, self.gain).program, machine))

    def better(self, given: Program, ordered: Program, machine: Machine) -> Program:
        """Of each top-level loop the order that takes less time with its flags: ids may run out in the new one."""
        body = tuple(
            new if new is old or self.pays(new, old, given, machine) else old
            for old, new in zip(given.body, ordered.body, strict=True)
        )
        return given if body == given.body else given.with_body(body)

    def pays(self, new: Stmt, old: Stmt, program: Program, machine: Machine) -> bool:
        """Whether an order saves the time that it should."""
        if new == old or self.gain < 0:
            return new != old
        ours, theirs = (judged(s, program, machine) for s in (new, old))
        return ours is None or theirs is None or ours.cycles < theirs.cycles * (1 - self.gain)
