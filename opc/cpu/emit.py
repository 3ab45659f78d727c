"""Program IR to LLVM text: one entry per program, which runs its phases in order.

A parallel loop is a phase: phases are separated by the join of a parallel region. Threads take contiguous
shares of a parallel loop's iterations; iterations are independent, so results do not depend on the number
of threads. LLVM spends about 2 ms on any function, so all phases of a program are one function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from opc.cpu import launch, layout, streams, tile_groups, tile_registers
from opc.cpu.executable import Need
from opc.cpu.extremes import merge_extremes
from opc.cpu.function import Function, Index, Module
from opc.cpu.layout import Layout
from opc.cpu.phase import Phase, arguments
from opc.machine.model import Machine
from opc.program import liveness, loan
from opc.program.ir import Buffer, Loop, Program, Stmt, instructions
from opc.scalar import FUNCTIONS

BLOBS = ("packed", "workspace", "scratch")
TEAM_WORK = 1 << 17  # element operations; below, one thread is done before a second has started
_COSTLY = 16  # element operations that an exponential counts for


@dataclass(frozen=True, slots=True)
class Entry:
    """The emitted entry of one program: ``symbol(arguments, packed, workspace, scratch, threads,
    runtime)``. The array of arguments ends with the address of each lender's memory, then with how many bytes of
    it scratch may use.
    """

    symbol: str
    arguments: tuple[Buffer, ...]
    layout: Layout
    width: int  # most iterations of any phase: more threads than that are of no use
    lenders: tuple[Buffer, ...]
    phases: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class _Share:
    """Statements that run between two barriers; ``extent`` iterations that threads may share."""

    statements: tuple[Stmt, ...]
    extent: int


def emit(module: Module, program: Program, machine: Machine, symbol: str) -> Entry:
    """Add the program's functions to ``module``."""
    program = tile_groups.group_operands(program, tile_registers.tile_space(machine))
    program = merge_extremes(program)
    plan = layout.plan(program, machine)
    phases = _phases(program.body)
    width = max((p.extent for p in phases), default=1)
    if width > 1 and _work(program) < TEAM_WORK:
        width = 1
    lenders, needs = _needs(program, plan, [p.extent if width > 1 else 1 for p in phases])
    entry = Entry(symbol, arguments(program), plan, width, lenders, needs)
    names = [f"%a{i}" for i in range(len(entry.arguments))]
    names += [f"%l{i}" for i in range(len(lenders))] + [f"%{b}" for b in BLOBS]
    listed = ", ".join(f"ptr noalias {n}" for n in names)
    body = Function(
        module, f"{symbol}.body", f"{listed}, i64 %phase, i64 %begin, i64 %end", linkage="internal"
    )

    scratch = _scratch(body, entry)

    def one(number: int) -> None:
        extent = phases[number].extent
        ends: tuple[Index, Index] = ("%begin", "%end") if extent > 1 else (0, extent)
        statements = phases[number].statements

        def version(stream: bool, bases: dict[str, str], begin: Index, end: Index) -> None:
            lent = {b.name: f"%l{i}" for i, b in enumerate(lenders)}
            Phase(body, program, machine, plan, stream, bases, scratch, lent).emit(statements, begin, end)

        streams.emit(body, program, machine, statements, ends, version)

    body.switch("%phase", len(phases), one)
    body.finish()
    launch.emit(module, symbol, names, [p.extent for p in phases], needs, len(lenders), width > 1)
    return entry


def _needs(
    program: Program, plan: Layout, extents: Sequence[int]
) -> tuple[tuple[Buffer, ...], tuple[Need, ...]]:
    """The results that lend memory, and what scratch each phase takes from where."""
    found = [plan.scratch_of(program, names) for names in liveness.phases(program)]
    free = [room if size else None for size, room in zip(found, loan.rooms(program), strict=True)]
    named = {name for name, _ in plan.arenas} | {room.lender for room in free if room is not None}
    lenders = tuple(b for b in program.buffers if b.name in named)
    number = {b.name: n for n, b in enumerate(lenders)}
    needs = (
        Need(extent, size, *((number[room.lender], room.start) if room else (-1, 0)))
        for extent, size, room in zip(extents, found, free, strict=True)
    )
    return lenders, tuple(needs)


def _scratch(body: Function, entry: Entry) -> str:
    """Where scratch memory begins: as far into a page as the largest operand. A store there is then never a little
    ahead of where the operand is read, where later loads would wait for it in vain.
    """
    page, read = entry.layout.page, [b for b in entry.arguments if b.kind != "output"]
    if not page or not read:
        return "%scratch"
    largest = max(read, key=lambda b: b.slot_bytes)
    place = body.op(f"ptrtoint ptr %a{entry.arguments.index(largest)} to i64")
    away = body.op(f"sub i64 {place}, {body.op('ptrtoint ptr %scratch to i64')}")
    shift = body.op(f"and i64 {away}, {page - layout.ALIGN}")
    found = body.op(f"getelementptr i8, ptr %scratch, i64 {shift}")
    body.note_depth(found)
    return found


def _phases(body: tuple[Stmt, ...]) -> list[_Share]:
    """Top-level statements; neighbours that are not parallel run together, because they share local
    buffers.
    """
    found: list[_Share] = []
    alone = False
    for stmt in body:
        if isinstance(stmt, Loop) and stmt.parallel:
            found.append(_Share((stmt,), stmt.extent))
            alone = False
            continue
        if alone:
            found[-1] = _Share((*found[-1].statements, stmt), 1)
        else:
            found.append(_Share((stmt,), 1))
        alone = True
    return found


def _work(program: Program) -> int:
    """Element operations of a run."""
    total = 0
    for i, loops in instructions(program.body):
        count = prod(e for _, e in i.dims) * prod(loop.extent for loop in loops)
        function = FUNCTIONS.get(i.op)
        total += count * (_COSTLY if function is not None and function.kind == "float" else 1)
    return total
