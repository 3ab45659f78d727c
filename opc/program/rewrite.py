"""Copies of statements with other index forms or operands: what every program pass is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from opc.affine import Affine
from opc.program.ir import Access, Instr, Loop, Stmt


def map_instrs(body: tuple[Stmt, ...], change: Callable[[Instr], Instr]) -> tuple[Stmt, ...]:
    """The body with every instruction replaced."""
    return tuple(
        change(s) if isinstance(s, Instr) else replace(s, body=map_instrs(s.body, change)) for s in body
    )


def map_accesses(instr: Instr, change: Callable[[Access], Access]) -> Instr:
    """The instruction with every access replaced."""
    dst = tuple(map(change, instr.dst))
    src = tuple(change(s) if isinstance(s, Access) else s for s in instr.src)
    return replace(instr, dst=dst, src=src)


def substitute(stmt: Stmt, values: Mapping[str, Affine | int]) -> Stmt:
    """The statement with loop variables replaced by forms or numbers, in indices, slots, ``init``,
    ``form`` and event ids. Names that the statement binds itself must not occur in ``values``.
    """
    if isinstance(stmt, Loop):
        body = tuple([substitute(s, values) for s in stmt.body])
        same = all(s is t for s, t in zip(body, stmt.body, strict=True))
        return stmt if same else Loop(stmt.var, stmt.extent, body, stmt.parallel)
    if not _mentions(stmt, values):
        return stmt

    def access(a: Access) -> Access:
        index = tuple([f.substitute(values) for f in a.index])
        return Access(a.buffer, index, a.slot.substitute(values))

    # Written out, because unrolling makes thousands of copies and replace() is slow.
    return Instr(
        stmt.opcode,
        stmt.dims,
        tuple([access(a) for a in stmt.dst]),
        tuple([access(s) if isinstance(s, Access) else s for s in stmt.src]),
        None if stmt.init is None else stmt.init.substitute(values),
        stmt.fill,
        None if stmt.form is None else stmt.form.substitute(values),
        None if stmt.flag is None else (*stmt.flag[:2], stmt.flag[2].substitute(values)),
        stmt.scale,
        stmt.hint,
        stmt.stage,
        stmt.chain,
        stmt.line,
    )


def _mentions(stmt: Instr, values: Mapping[str, Affine | int]) -> bool:
    """Whether one of the variables occurs in the instruction."""
    for a in (*stmt.dst, *stmt.sources):
        for form in (*a.index, a.slot):
            for name, _ in form.terms:
                if name in values:
                    return True
    rest = (stmt.init, stmt.form, stmt.flag[2] if stmt.flag else None)
    return any(form is not None and not form.names.isdisjoint(values) for form in rest)
