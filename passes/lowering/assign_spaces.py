"""Assign spaces: map roles to a machine's memories and insert the hops its routes require."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from opc.affine import Affine
from opc.errors import MachineError, fail
from opc.machine.model import MOVES, ROLES, Machine
from opc.pipeline import Context
from opc.program.ir import Access, Buffer, Instr, Loop, Module, Operand, Program, Stmt
from opc.program.legality import route_problems
from opc.program.text import print_stmt


@dataclass(frozen=True)
class AssignSpaces:
    """Give every local buffer the space that plays its role; a copy without a direct route goes through others.

    Before:
        program v1 f machine avx2 {
          buffer x: f32[64]@gm input
          buffer t: f32[64]@vector local
          parallel one < 1 {
            copy_in.copy t[i] = x[i] for i<64
          }
        }

    After:
        program v1 f machine avx2 {
          buffer x: f32[64]@gm input
          buffer t: f32[64]@reg local
          parallel one < 1 {
            copy_in.copy t[i] = x[i] for i<64
          }
        }
    """

    name: ClassVar[str] = "assign-spaces"
    level: ClassVar[str] = "lowering"

    def run(self, module: Module, context: Context) -> Module:
        """The module in real spaces. Raises MachineError E0631 where no route exists."""
        prepare, run = (_Assigner(p, context.machine).program() for p in module.programs)
        return module if (prepare, run) == module.programs else Module(prepare, run)


@dataclass
class _Assigner:
    source: Program
    machine: Machine
    hops: list[Buffer] = field(default_factory=list)

    def program(self) -> Program:
        buffers = tuple(replace(b, space=self._space(b)) for b in self.source.buffers)
        self.table = {b.name: b for b in buffers}
        body = self._body(self.source.body)
        return replace(self.source, buffers=(*buffers, *self.hops), body=body)

    def _space(self, b: Buffer) -> str:
        if b.space in self.machine.spaces or b.space not in ROLES:
            return b.space
        if b.space not in self.machine.roles:
            raise fail(
                MachineError,
                "E0631",
                f"'{self.machine.name}' has no space for the role '{b.space}', which buffer '{b.name}' needs",
                help=f"add {b.space} = … under [roles]",
            )
        return self.machine.roles[b.space]

    def _body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, Loop):
                out.append(replace(stmt, body=self._body(stmt.body)))
            else:
                out += self._route(stmt)
        return tuple(out)

    def _route(self, i: Instr) -> list[Instr]:
        if i.opcode_class not in MOVES:
            return [self._reached(i)]
        if not i.sources or not i.dst:
            return [i]
        source, target = (self.table[o.buffer].space for o in (i.sources[0], i.dst[0]))
        if self.machine.route(i.opcode_class, source, target) is not None:
            return [i]
        path = self._path(i, source, target)
        first = replace(i, opcode=_opcode(path[0][0], i))
        code: list[Instr] = []
        here: tuple[Operand, ...] = i.src
        for opcode_class, space in path[:-1]:
            hop = self._hop(i, space)
            code.append(replace(first, opcode=_opcode(opcode_class, i), dst=(hop,), src=here))
            # Padding, drain forms and their operands apply once, on the first hop.
            first = replace(first, fill=None, scale=())
            here = (hop,)
        code.append(replace(first, opcode=_opcode(path[-1][0], i), src=here, dst=i.dst))
        return code

    def _reached(self, i: Instr) -> Instr:
        """The instruction, unless its class has no route between these spaces: nothing hops there."""
        for _, message in route_problems(i, self.table, self.machine):
            raise fail(
                MachineError,
                "E0631",
                message,
                help=f'add a [[routes]] entry with class = "{i.opcode_class}", or give the role another space',
            )
        return i

    def _hop(self, i: Instr, space: str) -> Access:
        dtype = self.table[i.dst[0].buffer if i.opcode_class == "scale" else i.sources[0].buffer].dtype
        name = f"hop{len(self.hops)}"
        while name in self.table:
            name += "_"
        buffer = Buffer(name, dtype, tuple(e for _, e in i.dims) or (1,), space)
        self.hops.append(buffer)
        self.table[name] = buffer
        return Access(name, tuple(Affine.var(d) for d, _ in i.dims) or (Affine(),))

    def _path(self, i: Instr, source: str, target: str) -> list[tuple[str, str]]:
        """(class, space) of each move from source to target."""
        way = self.machine.way(i.opcode_class, source, target)
        if way:
            return [(r.opcode_class, r.target) for r in way]
        raise fail(
            MachineError,
            "E0631",
            f"'{self.machine.name}' has no way from {source} to {target} for: {print_stmt(i)}",
            help=f'add a [[routes]] entry with class = "{i.opcode_class}"',
        )


def _opcode(opcode_class: str, i: Instr) -> str:
    if opcode_class == i.opcode_class:
        return i.opcode
    return "scale.drain" if opcode_class == "scale" else f"{opcode_class}.copy"
