"""Fold drain: what becomes of a drained tile, by a factor, ReLU, conversion and its store, is part of the drain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Access, Imm, Instr, Loop, Module, Operand, Program, Stmt, instructions
from opc.program.legality import factor_problem

_ONE = Imm(1.0)  # the factor of a drain that only converts integers


@dataclass(frozen=True)
class FoldDrain:
    """Let the drain of an accumulator do what only copies, converts, clips or scales its result.

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
        """Whether a drain took over what the next users of its result do."""
        drain = code[at]
        if not isinstance(drain, Instr) or drain.opcode != "scale.drain" or drain.src != drain.sources[:1]:
            return False
        best, step = None, self._next(code, _Taken(drain, at))
        # Some forms are only possible together: no drain gives integers as floats, and no factor alone.
        while step is not None:
            best = step if self._possible(step.drain) else best
            step = self._next(code, step)
        if best is None:
            return False
        code[best.place] = best.drain
        self.users[best.drain.dst[0].buffer] -= best.fewer
        for place in sorted(best.gone, reverse=True):
            del code[place]
        return True

    def _next(self, code: Sequence[Stmt], taken: _Taken) -> _Taken | None:
        """The drain with the next user of its result in it; None if it cannot be."""
        drain = taken.drain
        place = self._next_user(code, taken) if self._covers(drain.dst[0], drain) else None
        if place is None:
            return None
        user = code[place]
        assert isinstance(user, Instr)
        drain = self._in_dims(drain, user)
        does, name = self._does(drain, user), drain.dst[0].buffer
        if does is None:
            return None
        src = (drain.src[0], *does.factors)
        joined = Instr("scale.drain", user.dims, user.dst, src, scale=does.forms, line=user.line)
        gone = taken.gone | {taken.place}
        if user.dst[0].buffer == name:
            whole = user.dst[0] in user.sources and self._covers(user.dst[0], user)
            return _Taken(replace(joined, line=drain.line), place, gone, taken.fewer + 1) if whole else None
        alone = self.users[name] - taken.fewer == 2 and user.dst[0].buffer not in _read(joined)
        return _Taken(joined, place, gone) if alone else None

    def _next_user(self, code: Sequence[Stmt], taken: _Taken) -> int | None:
        """The place of the instruction that reads the drain's result first, with all that it drains as it was."""
        name, read = taken.drain.dst[0].buffer, _read(taken.drain)
        for place in range(taken.place + 1, len(code)):
            stmt = code[place]
            if place in taken.gone:
                continue
            if isinstance(stmt, Instr) and any(s.buffer == name for s in stmt.sources):
                return place
            inner = [stmt] if isinstance(stmt, Instr) else [i for i, _ in instructions(stmt.body)]
            if any(name in _named(i) or not read.isdisjoint(d.buffer for d in i.dst) for i in inner):
                return None
        return None

    def _in_dims(self, drain: Instr, user: Instr) -> Instr:
        """The drain with what it reads in the dims of the user of its result."""
        name = drain.dst[0].buffer
        read = next(s for s in user.sources if s.buffer == name)
        values = {f.as_var() or "": at for f, at in zip(drain.dst[0].index, read.index, strict=True)}
        return replace(drain, src=tuple(_moved(o, values) for o in drain.src))

    def _does(self, drain: Instr, user: Instr) -> _Does | None:
        """What the drain has to do to give the user's result; None if it never could."""
        now, then = (self.table[a.buffer].dtype for a in (drain.dst[0], user.dst[0]))
        if user.opcode == "vector.max" and len(user.sources) == 1 and Imm(0) in user.src:
            return _clipped(drain) if now == then else None
        if user.opcode == "vector.mul":
            return self._multiplied(drain, user) if now == then == DType.F32 else None
        if user.opcode not in ("vector.copy", "copy_out.copy") or user.fill is not None:
            return None
        if user.opcode == "copy_out.copy" and not self._reaches(drain, user):
            return None
        return _Does(drain.scale, drain.src[1:]) if now == then else self._converted(drain, then)

    def _converted(self, drain: Instr, to: DType) -> _Does | None:
        """The drain with a result of another type."""
        acc, now = (self.table[a.buffer].dtype for a in (drain.sources[0], drain.dst[0]))
        if "scale" in drain.scale and now == DType.F32:
            return _Does((*_unconverted(drain), "convert"), drain.src[1:])
        if acc != now:
            return None
        if acc.is_float and to.is_float:
            return _Does((*drain.scale, "convert"), drain.src[1:])
        # An f32 in between changes nothing for these types: what it rounds is infinite in them, or saturates.
        plain = to in (DType.F32, DType.F16, DType.I8) and "scale" not in drain.scale
        return _Does(("scale", *drain.scale, "convert"), (_ONE,)) if plain else None

    def _multiplied(self, drain: Instr, user: Instr) -> _Does | None:
        """The drain with the factor of a product of f32, unless it rounded or clipped before."""
        others = [o for o in user.src if not isinstance(o, Access) or o.buffer != drain.dst[0].buffer]
        plain = (drain.scale, drain.src[1:]) in (((), ()), (("scale", "convert"), (_ONE,)))
        if len(others) != 1 or not plain:
            return None
        forms = ("scale", *(f for f in drain.scale if f != "scale"))
        return _Does(forms, (others[0],))

    def _reaches(self, drain: Instr, user: Instr) -> bool:
        """Whether a drain has a way to where the user stores."""
        roles, accumulator = self.machine.roles, self.table[drain.sources[0].buffer].space
        memory = self.table[user.dst[0].buffer].space
        return self.machine.route("scale", roles.get(accumulator, accumulator), memory) is not None

    def _possible(self, drain: Instr) -> bool:
        """Whether the machine has a drain of those forms."""
        known = self.machine.scale_factor
        if not self.machine.scale_forms.issuperset(drain.scale):
            return False
        if "scale" in drain.scale:
            return known is not None and not factor_problem(drain, self.table, self.machine, known)
        return True

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


@dataclass(frozen=True, slots=True)
class _Taken:
    """A drain, its place, and what it took over: places that are ``gone``; how many ``fewer`` name its result."""

    drain: Instr
    place: int
    gone: frozenset[int] = frozenset()
    fewer: int = 0


@dataclass(frozen=True, slots=True)
class _Does:
    """Forms of a drain, and the operands that they take."""

    forms: tuple[str, ...]
    factors: tuple[Operand, ...]


def _moved(operand: Operand, values: dict[str, Affine]) -> Operand:
    """The operand in the dims of a user, of which the drain's own are ``values``."""
    if not isinstance(operand, Access):
        return operand
    return Access(operand.buffer, tuple(form.substitute(values) for form in operand.index), operand.slot)


def _unconverted(drain: Instr) -> tuple[str, ...]:
    return tuple(form for form in drain.scale if form != "convert")


def _clipped(drain: Instr) -> _Does:
    """The drain with a ReLU. Rounding is monotone: clipped before it, only the sign of a zero may differ."""
    last = ("convert",) if "convert" in drain.scale else ()
    return _Does((*_unconverted(drain), "relu", *last), drain.src[1:])


def _read(i: Instr) -> set[str]:
    return {s.buffer for s in i.sources}


def _named(i: Instr) -> set[str]:
    return {a.buffer for a in (*i.dst, *i.sources)}
