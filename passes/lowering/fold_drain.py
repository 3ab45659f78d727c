"""Fold drain: conversion, ReLU and the store of a drained tile become part of the drain, where it can do them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Access, Imm, Instr, Loop, Module, Program, Stmt, instructions


@dataclass(frozen=True)
class FoldDrain:
    """Let the drain of an accumulator do what only copies, converts or clips its result.

    Before:
        program v1 f machine ascend910 {
          buffer y: f16[16,16]@gm output
          buffer acc: f32[16,16]@accumulator local
          buffer drained: f32[16,16]@vector local
          buffer out: f16[16,16]@vector local
          parallel one < 1 {
            scale.drain drained[m_, n_] = acc[m_, n_] for m_<16, n_<16
            vector.max drained[m_, n_] = drained[m_, n_], 0 for m_<16, n_<16
            vector.copy out[m_, n_] = drained[m_, n_] for m_<16, n_<16
            copy_out.copy y[m, n] = out[m, n] for m<16, n<16
          }
        }

    After:
        program v1 f machine ascend910 {
          buffer y: f16[16,16]@gm output
          buffer acc: f32[16,16]@accumulator local
          buffer out: f16[16,16]@vector local
          parallel one < 1 {
            scale.drain out[m_, n_] = acc[m_, n_] for m_<16, n_<16 {scale=relu+convert}
            copy_out.copy y[m, n] = out[m, n] for m<16, n<16
          }
        }
    """

    name: ClassVar[str] = "fold-drain"
    level: ClassVar[str] = "lowering"

    def run(self, module: Module, context: Context) -> Module:
        """The module with less work after its drains."""
        prepare, run = (folded(p, context.machine) for p in module.programs)
        return module if (prepare, run) == module.programs else Module(prepare, run)


def folded(program: Program, machine: Machine) -> Program:
    """The program with less work after its drains."""
    return _Folder(program, machine).program() if machine.scale_forms else program


class _Folder:
    def __init__(self, program: Program, machine: Machine) -> None:
        self.source, self.machine = program, machine
        self.table = program.table()
        self.users: dict[str, int] = {}  # instructions that name each buffer
        for i, _ in instructions(program.body):
            for name in _named(i):
                self.users[name] = self.users.get(name, 0) + 1

    def program(self) -> Program:
        body = self._body(self.source.body)
        if body == self.source.body:
            return self.source
        kept = {name for i, _ in instructions(body) for name in _named(i)}
        before = {name for i, _ in instructions(self.source.body) for name in _named(i)}
        buffers = tuple(b for b in self.source.buffers if b.name in kept or b.name not in before)
        return replace(self.source, buffers=buffers, body=body)

    def _body(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        code = [replace(s, body=self._body(s.body)) if isinstance(s, Loop) else s for s in body]
        at = 0
        while at < len(code):
            at += not self._fold(code, at)
        return tuple(code)

    def _fold(self, code: list[Stmt], at: int) -> bool:
        """Whether a drain took over what the next user of its result does."""
        drain = code[at]
        if not isinstance(drain, Instr) or drain.opcode != "scale.drain" or len(drain.sources) != 1:
            return False
        place = self._next_user(drain, code[at + 1 :]) if self._covers(drain.dst[0], drain) else None
        if place is None:
            return False
        user = code[at + 1 + place]
        assert isinstance(user, Instr)
        forms, name = self._forms(drain, user), drain.dst[0].buffer
        if forms is None or not self.machine.scale_forms.issuperset(forms):
            return False
        if user.dst[0] == user.sources[0] and self._covers(user.dst[0], user):
            code[at] = replace(drain, scale=forms)
            self.users[name] -= 1
            del code[at + 1 + place]
            return True
        if self.users[name] != 2 or user.dst[0].buffer == name:
            return False
        code[at + 1 + place] = self._joined(drain, user, forms)
        del code[at]
        return True

    def _next_user(self, drain: Instr, rest: Sequence[Stmt]) -> int | None:
        """The place of the instruction that reads the drain's result first, with the accumulator as it was."""
        name, acc = drain.dst[0].buffer, drain.sources[0].buffer
        for place, stmt in enumerate(rest):
            if isinstance(stmt, Instr) and any(s.buffer == name for s in stmt.sources):
                return place
            inner = [stmt] if isinstance(stmt, Instr) else [i for i, _ in instructions(stmt.body)]
            if any(name in _named(i) or acc in {d.buffer for d in i.dst} for i in inner):
                return None
        return None

    def _joined(self, drain: Instr, user: Instr, forms: tuple[str, ...]) -> Instr:
        """The user as a drain: what it reads of the result is read of the accumulator."""
        pairs = zip(drain.dst[0].index, user.sources[0].index, strict=True)
        values = {form.as_var() or "": at for form, at in pairs}
        acc = drain.sources[0]
        index = tuple(form.substitute(values) for form in acc.index)
        source = Access(acc.buffer, index, acc.slot)
        return Instr("scale.drain", user.dims, user.dst, (source,), scale=forms, line=user.line)

    def _forms(self, drain: Instr, user: Instr) -> tuple[str, ...] | None:
        """What the drain has to do to give the user's result; None if it never could."""
        kinds = [self.table[a.buffer].dtype for a in (drain.sources[0], drain.dst[0], user.dst[0])]
        clips = user.opcode == "vector.max" and len(user.sources) == 1 and Imm(0) in user.src
        if not clips and (user.opcode not in ("vector.copy", "copy_out.copy") or user.fill is not None):
            return None
        memory = self.table[user.dst[0].buffer].space
        accumulator, roles = self.table[drain.sources[0].buffer].space, self.machine.roles
        if user.opcode == "copy_out.copy" and (
            self.machine.route("scale", roles.get(accumulator, accumulator), memory) is None
        ):
            return None
        # Rounding is monotone: clipped before it, only the sign of a zero may differ.
        forms = (*(f for f in drain.scale if f != "convert"), "relu") if clips else drain.scale
        if kinds[1] == kinds[2]:
            return (*forms, "convert") if clips and "convert" in drain.scale else forms
        floats = kinds[0].is_float and kinds[2].is_float
        return (*forms, "convert") if floats and kinds[0] == kinds[1] else None

    def _covers(self, access: Access, i: Instr) -> bool:
        """Whether the instruction names every element of a local buffer, each axis by a dim of its own."""
        buffer = self.table[access.buffer]
        wide = [
            (form.as_var() or "", size)
            for form, size in zip(access.index, buffer.shape, strict=True)
            if size > 1
        ]
        whole = [(name, size) for name, size in i.dims if size > 1]
        return buffer.kind == "local" and sorted(wide) == sorted(whole)


def _named(i: Instr) -> set[str]:
    return {a.buffer for a in (*i.dst, *i.sources)}
