"""Legalise: replace what a machine's vector unit lacks by what it has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Access, Buffer, Imm, Instr, Loop, Module, Operand, Program, Stmt
from opc.scalar import FUNCTIONS
from passes.lowering._expansions import EXPANSIONS


@dataclass(frozen=True)
class Legalise:
    """Expand scalar functions that the machine's vector unit does not list.

    Before:
        program v1 f machine ascend910 {
          buffer t: f32[64]@vector local
          parallel one < 1 {
            vector.neg t[i] = t[i] for i<64
          }
        }

    After:
        program v1 f machine ascend910 {
          buffer t: f32[64]@vector local
          parallel one < 1 {
            vector.mul t[i] = t[i], -1.0 for i<64
          }
        }
    """

    name: ClassVar[str] = "legalise"
    level: ClassVar[str] = "lowering"

    def run(self, module: Module, context: Context) -> Module:
        """The module with every vector instruction native. Raises MachineError E0632."""
        prepare, run = (_Rewriter(p, context.machine).program() for p in module.programs)
        return module if (prepare, run) == module.programs else Module(prepare, run)


@dataclass
class _Rewriter:
    source: Program
    machine: Machine
    added: list[Buffer] = field(default_factory=list)

    def program(self) -> Program:
        self.table = self.source.table()
        body = self._body(self.source.body)
        if body == self.source.body:
            return self.source
        return replace(self.source, buffers=(*self.source.buffers, *self.added), body=body)

    def _body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, Loop):
                out.append(replace(stmt, body=self._body(stmt.body)))
            elif self._native(stmt):
                out.append(stmt)
            else:
                out += self._expand(stmt)
        return tuple(out)

    def _native(self, i: Instr) -> bool:
        if i.opcode_class != "vector":
            return True
        fn = "reduce" if i.op.startswith("reduce_") else i.op
        return fn in self.machine.vector_functions

    def _expand(self, i: Instr) -> list[Instr]:
        dtype = self.table[i.dst[0].buffer].dtype
        # An f64 result needs more than the f32 fits give; sign and reciprocal forms are exact in any type.
        fits = dtype is DType.F32 or i.op in ("neg", "abs", "rsqrt")
        if i.op not in EXPANSIONS or not fits:
            raise fail(
                MachineError,
                "E0632",
                f"the vector unit of '{self.machine.name}' has no {i.op} for {dtype}",
                help="use another machine, or write the function with those it has: "
                + ", ".join(sorted(self.machine.vector_functions & set(FUNCTIONS))),
            )
        emitted = _Expansion(self, i, dtype)
        result = EXPANSIONS[i.op](emitted, *i.src)
        assert isinstance(result, Access)
        # The last operation writes the destination itself; its temporary is not needed.
        last = emitted.code[-1]
        self.added = [b for b in self.added if b.name != last.dst[0].buffer]
        return [*emitted.code[:-1], replace(last, dst=i.dst)]

    def temporary(self, i: Instr, dtype: DType) -> Access:
        """A dense tile over the instruction's dims, in the space of its destination."""
        taken = {b.name for b in (*self.source.buffers, *self.added)}
        n = 0
        while f"x{n}" in taken:
            n += 1
        space = self.table[i.dst[0].buffer].space
        self.added.append(Buffer(f"x{n}", dtype, tuple(e for _, e in i.dims) or (1,), space))
        return Access(f"x{n}", tuple(Affine.var(d) for d, _ in i.dims) or (Affine(),))


@dataclass
class _Expansion:
    """The builder handed to an expansion: each call becomes one instruction with a new temporary."""

    rewriter: _Rewriter
    instr: Instr
    dtype: DType
    code: list[Instr] = field(default_factory=list)
    known: dict[tuple[object, ...], Access] = field(default_factory=dict)

    def __call__(self, fn: str, *args: Operand | float) -> Operand:
        if fn not in self.rewriter.machine.vector_functions:
            result = EXPANSIONS[fn](self, *args)
            assert isinstance(result, Access)
            return result
        key = (fn, *args)
        if key in self.known:
            return self.known[key]
        operands = tuple(Imm(a) if isinstance(a, float | int) else a for a in args)
        kind = DType.I32 if FUNCTIONS[fn].kind == "compare" else self.dtype
        out = self.rewriter.temporary(self.instr, kind)
        self.code.append(
            Instr(
                f"vector.{fn}",
                self.instr.dims,
                (out,),
                operands,
                line=self.instr.line,
                stage=self.instr.stage,
            )
        )
        self.known[key] = out
        return out
