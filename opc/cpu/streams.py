"""Phases with results that are stored past the caches: which stores may be, and from where on.

Lines must be written whole, so streaming needs results that begin at one. Where a phase walks its arrays as
one long row, it is shifted until they do; the first and last iteration then run once more, unshifted.
"""

from __future__ import annotations

from collections.abc import Callable

from opc.cpu.function import Function, Index
from opc.cpu.phase import ARGUMENTS, arguments
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt, instructions

Version = Callable[[bool, dict[str, str], Index, Index], None]  # (stream, bases, begin, end)


def emit(
    f: Function,
    program: Program,
    machine: Machine,
    statements: tuple[Stmt, ...],
    ends: tuple[Index, Index],
    version: Version,
) -> None:
    """Emit the phase, streaming where its results allow that."""
    names = _streamed(program, statements)
    if not names:
        f.scoped(lambda: version(False, {}, *ends))
        return
    table, pointers = program.table(), {b.name: f"%a{i}" for i, b in enumerate(arguments(program))}
    line = machine.line_bytes
    step = _step(table, statements, names, line)
    offset = _distance(f, pointers[names[0]], table[names[0]], line) if step else "0"
    bases = {n: _moved(f, pointers[n], table[n], offset) for n in pointers} if step else {}
    for base in bases.values():
        f.note_depth(base)
    aligned = _on_lines(f, [bases.get(n, pointers[n]) for n in names], line)

    def streaming() -> None:
        if step:
            _shifted(f, bases, offset, ends, version, statements)
        else:
            version(True, {}, *ends)
        if f.module.x86:
            f.call("llvm.x86.sse.sfence", "void", [], [])  # before another thread may read

    f.branch(aligned, streaming, lambda: version(False, {}, *ends))


def _streamed(program: Program, statements: tuple[Stmt, ...]) -> list[str]:
    """The arguments that the statements store past the caches."""
    own = {b.name for b in arguments(program)}
    stores = (i for i, _ in instructions(statements) if i.hint == "stream" and i.opcode_class == "copy_out")
    return sorted({d.buffer for i in stores for d in i.dst} & own)


def _step(table: dict[str, Buffer], statements: tuple[Stmt, ...], names: list[str], line: int) -> int:
    """Elements from one iteration to the next in every array, or 0 if that is not one number."""
    (loop, *rest) = statements
    if rest or not isinstance(loop, Loop) or not loop.parallel or loop.extent < 2:
        return 0
    steps = set[int]()
    for i in loop.body:
        if not isinstance(i, Instr) or i.fill is not None or i.form is not None:
            return 0
        for a in (*i.dst, *(s for s in i.src if isinstance(s, Access))):
            if table[a.buffer].kind != "local":
                whole = table[a.buffer].kind in ARGUMENTS and len(a.index) == 1
                steps.add(a.index[0].coefficient(loop.var) if whole else 0)
    step = steps.pop() if len(steps) == 1 else 0
    return step if all(step * table[n].dtype.bytes >= line for n in names) else 0


def _distance(f: Function, pointer: str, buffer: Buffer, line: int) -> str:
    """Elements from ``pointer`` to the next line."""
    away = f.op(f"sub i64 0, {f.op(f'ptrtoint ptr {pointer} to i64')}")
    size = buffer.dtype.bytes.bit_length() - 1
    return f.op(f"lshr i64 {f.op(f'and i64 {away}, {line - 1}')}, {size}")


def _moved(f: Function, pointer: str, buffer: Buffer, offset: str) -> str:
    by = f.op(f"mul i64 {offset}, {buffer.dtype.bytes}")
    return f.op(f"getelementptr i8, ptr {pointer}, i64 {by}")


def _on_lines(f: Function, pointers: list[str], line: int) -> str:
    """Whether every pointer begins a cache line."""
    total = "0"
    for p in pointers:
        total = f.op(f"or i64 {total}, {f.op(f'ptrtoint ptr {p} to i64')}")
    return f.op(f"icmp eq i64 {f.op(f'and i64 {total}, {line - 1}')}, 0")


def _shifted(
    f: Function,
    bases: dict[str, str],
    offset: str,
    ends: tuple[Index, Index],
    version: Version,
    statements: tuple[Stmt, ...],
) -> None:
    """The last iteration would run over the end, so it stays; so does the first, for what precedes the line."""
    loop = statements[0]
    assert isinstance(loop, Loop)
    begin, end = ends
    last = loop.extent - 1
    if not isinstance(end, int) or not isinstance(begin, int):
        inner = f.call("llvm.smin.i64", "i64", [str(end), str(last)], ["i64", "i64"])
    else:
        inner = str(last)
    f.scoped(lambda: version(True, bases, begin, inner))
    moved = f.op(f"icmp ne i64 {offset}, 0")
    first = f.op(f"and i1 {moved}, {f.op(f'icmp eq i64 {begin}, 0')}")
    f.branch(first, lambda: version(False, {}, 0, 1))
    f.branch(f.op(f"icmp eq i64 {end}, {loop.extent}"), lambda: version(False, {}, last, last + 1))
