"""Maxima of maxima as one instruction of several operands: where NaN must win, the test for it costs twice as much as
the maximum, and one test covers two operands.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt, instructions

_FOUND = ("vector.max", "vector.min")


def merge_extremes(program: Program) -> Program:
    """Merge each maximum (or minimum) of floats into the one that follows it, where nothing else reads it."""
    listed = [i for i, _ in instructions(program.body)]
    if sum(i.opcode in _FOUND for i in listed) < 2:
        return program
    readers = Counter(name for i in listed for name in _read(i))
    table = program.table()

    def body(statements: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for stmt in statements:
            if isinstance(stmt, Loop):
                stmt = replace(stmt, body=body(stmt.body))
            elif found and isinstance(before := found[-1], Instr) and _enters(before, stmt, table, readers):
                found.pop()
                merged = _merged(before, stmt)
                readers.update(_read(merged))
                readers.subtract([*_read(before), *_read(stmt)])
                stmt = merged
            found.append(stmt)
        return tuple(found)

    return program.with_body(body(program.body))


def _read(i: Instr) -> set[str]:
    return {a.buffer for a in i.sources}


def _enters(before: Instr, after: Instr, table: dict[str, Buffer], readers: Counter[str]) -> bool:
    """Whether ``before`` makes an operand of ``after`` and of nothing else."""
    if before.opcode not in _FOUND or (before.opcode, before.dims) != (after.opcode, after.dims):
        return False
    operands = [*before.sources, *after.sources, *before.dst, *after.dst]
    if len(operands) < len(before.src) + len(after.src) + 2:  # a literal costs no test
        return False
    made = before.dst[0]
    if after.sources.count(made) != 1 or table[made.buffer].kind != "local":
        return False
    if sum(a.buffer == made.buffer for a in after.sources) > 1:
        return False
    kinds = {table[a.buffer].dtype for a in operands}
    dead = after.dst[0] == made or readers[made.buffer] == 1 + (made.buffer in _read(before))
    return dead and len(kinds) == 1 and kinds.pop().is_float


def _merged(before: Instr, after: Instr) -> Instr:
    others = [s for s in after.sources if s != before.dst[0]]
    sources: list[Access] = [*before.sources, *others]
    return replace(after, src=tuple(sources))
