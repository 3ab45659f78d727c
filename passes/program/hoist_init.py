"""Accumulators that start at zero before their loops, not under a condition inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.affine import Affine
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Access, Buffer, Imm, Instr, Loop, Module, Program, Stmt, instructions, map_programs
from opc.program.rewrite import map_instrs


@dataclass(frozen=True)
class HoistInit:
    """Set accumulators to zero before the loops that sum into them.

    A cube instruction whose ``init`` is a form of loop variables tests it in every iteration; where the
    machine has a route that writes zeros into the accumulator, and no vector register serves as one, the test
    becomes an instruction in front of the loops.

    Before:
        program v1 sum machine amx {
          buffer x: bf16[2,16,32]@gm input
          buffer w: bf16[2,32,16]@gm input
          buffer y: f32[16,16]@gm output
          buffer a: bf16[16,32]@tmm local
          buffer b: bf16[32,16]@tmm local
          buffer c: f32[16,16]@tmm local
          buffer d: f32[16,16]@l2 local
          loop s < 2 {
            copy_in.copy a[m, k] = x[s, m, k] for m<16, k<32
            copy_in.copy b[k, n] = w[s, k, n] for k<32, n<16
            cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {init=s, chain=64}
          }
          scale.drain d[m, n] = c[m, n] for m<16, n<16
        }

    After:
        program v1 sum machine amx {
          buffer x: bf16[2,16,32]@gm input
          buffer w: bf16[2,32,16]@gm input
          buffer y: f32[16,16]@gm output
          buffer a: bf16[16,32]@tmm local
          buffer b: bf16[32,16]@tmm local
          buffer c: f32[16,16]@tmm local
          buffer d: f32[16,16]@l2 local
          vector.copy c[d0, d1] = 0.0 for d0<16, d1<16
          loop s < 2 {
            copy_in.copy a[m, k] = x[s, m, k] for m<16, k<32
            copy_in.copy b[k, n] = w[s, k, n] for k<32, n<16
            cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=64}
          }
          scale.drain d[m, n] = c[m, n] for m<16, n<16
        }
    """

    name: ClassVar[str] = "hoist-init"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        """The program with its accumulators started; the same object if none qualifies."""
        return map_programs(ir, lambda p: _rewrite(p, context.machine))


def _rewrite(program: Program, machine: Machine) -> Program:
    space = machine.roles.get("accumulator", "")
    if not space or machine.roles.get("vector") == space or machine.route("vector", space, space) is None:
        return program
    places = _places(program, space)
    if not places:
        return program
    return program.with_body(_started(program.body, places, program.table(), ()))


Path = tuple[str, ...]  # variables of the loops down to a statement


def _places(program: Program, space: str) -> dict[str, Path]:
    """Accumulators to start, and down to which loop; one writer each, so that nothing else tests."""
    table, found, count = program.table(), dict[str, Path](), dict[str, int]()
    for instr, loops in instructions(program.body):
        if instr.opcode_class != "cube" or table[instr.dst[0].buffer].space != space:
            continue
        name = instr.dst[0].buffer
        count[name] = count.get(name, 0) + 1
        outer = _outermost(instr, loops)
        if outer is not None and _whole(instr, table[name]):
            found[name] = tuple(loop.var for loop in loops[: outer + 1])
    return {name: path for name, path in found.items() if count[name] == 1}


def _outermost(instr: Instr, loops: tuple[Loop, ...]) -> int | None:
    """The loop whose first iteration starts the sum: it and all loops inside it, and no other, count in ``init``."""
    form = instr.init
    if form is None or form.const or not form.terms or any(c < 0 for _, c in form.terms):
        return None
    named = [n for n, loop in enumerate(loops) if loop.var in form.names]
    inside = all(loop.var in form.names or loop.extent == 1 for loop in loops[named[0] :])
    return named[0] if inside and not loops[named[0]].parallel else None


def _whole(instr: Instr, buffer: Buffer) -> bool:
    """Whether the destination is all of its buffer."""
    elements = 1
    for form in instr.dst[0].index:
        if not form.names <= instr.extents.keys():
            return False
        low, high = form.interval(instr.extents)
        elements *= high - low + 1
    return elements == buffer.elements and buffer.slots == 1


def _started(
    body: tuple[Stmt, ...], places: Mapping[str, Path], table: Mapping[str, Buffer], path: Path
) -> tuple[Stmt, ...]:
    found: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Loop):
            inner = (*path, stmt.var)
            sums = dict.fromkeys(
                i.dst[0].buffer for i, _ in instructions(stmt.body) if i.opcode_class == "cube"
            )
            started = [name for name in sums if places.get(name) == inner]
            found += [_zero(table[name], path) for name in started]
            stmt = replace(stmt, body=_started(stmt.body, places, table, inner))
            if started:
                stmt = replace(stmt, body=map_instrs(stmt.body, lambda i, done=started: _goes_on(i, done)))  # type: ignore[misc]
        found.append(stmt)
    return tuple(found)


def _goes_on(instr: Instr, names: list[str]) -> Instr:
    return (
        replace(instr, init=None) if instr.opcode_class == "cube" and instr.dst[0].buffer in names else instr
    )


def _zero(b: Buffer, path: Path) -> Instr:
    prefix = "d"
    while any(name.startswith(prefix) for name in path):
        prefix += "_"
    dims = tuple((f"{prefix}{axis}", extent) for axis, extent in enumerate(b.shape))
    access = Access(b.name, tuple(Affine.var(name) for name, _ in dims))
    return Instr("vector.copy", dims, (access,), (Imm(0.0 if b.dtype.is_float else 0),))
