"""Second operands of tile multiplications in the processor's form: ``b[k, n]`` becomes ``b[k / g, n, g]``."""

from __future__ import annotations

from dataclasses import replace

from opc.affine import Affine
from opc.errors import MachineError, fail
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt, instructions

GROUP_BYTES = 4


def group_operands(program: Program, space: str) -> Program:
    """Rewrite every two-dimensional second operand in ``space`` and the instructions that touch it."""
    table = program.table()
    names = {
        i.sources[1].buffer
        for i, _ in instructions(program.body)
        if i.opcode == "cube.mma" and table[i.sources[1].buffer].space == space
    }
    chosen = {
        name: GROUP_BYTES // table[name].dtype.bytes for name in sorted(names) if len(table[name].shape) == 2
    }
    if not chosen:
        return program
    buffers = tuple(_grouped(b, chosen[b.name]) if b.name in chosen else b for b in program.buffers)
    known: dict[object, Instr] = {}
    return replace(program, buffers=buffers, body=tuple(_statement(s, chosen, known) for s in program.body))


def _grouped(b: Buffer, group: int) -> Buffer:
    if group == 0 or b.shape[0] % group:
        raise _refuse(b.name, group)
    return replace(b, shape=(b.shape[0] // group, b.shape[1], group))


def _refuse(name: str, group: int) -> Exception:
    return fail(
        MachineError,
        "E0954",
        f"tile operand '{name}' does not hold whole groups of {group} values along its first axis",
        help="let the summed dimension come in multiples of the values that fit 4 bytes",
    )


def _statement(stmt: Stmt, chosen: dict[str, int], known: dict[object, Instr]) -> Stmt:
    if isinstance(stmt, Loop):
        return replace(stmt, body=tuple(_statement(s, chosen, known) for s in stmt.body))
    touched = [a for a in (*stmt.dst, *stmt.sources) if a.buffer in chosen]
    if not touched:
        return stmt
    # Unrolled products are equal: one rewrite serves them all.
    key = (stmt.opcode, stmt.dims, stmt.dst, stmt.src, stmt.init, stmt.fill, stmt.scale, stmt.hint, stmt.form)
    if key not in known:
        known[key] = _rewritten(stmt, touched, chosen)
    return known[key]


def _rewritten(stmt: Instr, touched: list[Access], chosen: dict[str, int]) -> Instr:
    for access in touched:
        stmt = _split(stmt, access.index[0], access.buffer, chosen[access.buffer])
    move = {
        a: _regrouped(a, stmt, chosen[a.buffer]) for a in (*stmt.dst, *stmt.sources) if a.buffer in chosen
    }
    return replace(
        stmt,
        dst=tuple(move.get(a, a) for a in stmt.dst),
        src=tuple(move.get(s, s) if isinstance(s, Access) else s for s in stmt.src),
    )


def _split(i: Instr, index: Affine, name: str, group: int) -> Instr:
    """Cut the dimension that walks ``index`` one by one into groups, unless it is one group long already."""
    ones = [n for n, c in index.terms if c == 1 and n in i.extents]
    if len(ones) == 1 and i.extents[ones[0]] == group:
        return i
    if len(ones) != 1 or i.extents[ones[0]] % group:
        raise _refuse(name, group)
    old = ones[0]
    whole, part = f"{old}.group", f"{old}.part"
    form = Affine.of({whole: group, part: 1})
    dims = [d for n, e in i.dims for d in ([(whole, e // group), (part, group)] if n == old else [(n, e)])]

    def changed(a: Access) -> Access:
        return replace(a, index=tuple(x.substitute({old: form}) for x in a.index))

    return replace(
        i,
        dims=tuple(dims),
        dst=tuple(changed(a) for a in i.dst),
        src=tuple(changed(s) if isinstance(s, Access) else s for s in i.src),
        form=i.form.substitute({old: form}) if i.form is not None else None,
    )


def _regrouped(a: Access, i: Instr, group: int) -> Access:
    first, rest = a.index[0], a.index[1:]
    parts = [n for n, c in first.terms if c == 1 and i.extents.get(n) == group]
    others = [c for n, c in first.terms if n not in parts]
    if len(parts) != 1 or any(c % group for c in others) or first.const % group:
        raise _refuse(a.buffer, group)
    whole = Affine.of({n: c // group for n, c in first.terms if n not in parts}, first.const // group)
    return replace(a, index=(whole, *rest, Affine.var(parts[0])))
