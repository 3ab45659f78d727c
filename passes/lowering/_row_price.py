"""How long a nest of row work takes on pipes that run side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil, inf

from opc.machine.model import Machine
from opc.program.cost import cycles
from opc.program.ir import Buffer, Instr, Program, Stmt
from opc.program.pipes import pipe_of


def nest_cycles(program: Program, machine: Machine) -> float:
    """Cycles of a program of row nests, whose buffers lie in role spaces; infinite where they need too much memory.

    A phase takes as long as its busiest pipe, and what the others do before the first and after the last tile.
    """
    table = {b.name: replace(b, space=machine.roles.get(b.space, b.space)) for b in program.buffers}
    if any(_bytes(program, machine, *spaces) > machine.role(spaces[0]).capacity for spaces in _near(machine)):
        return inf
    total = 0.0
    for phase in program.body:
        busy: dict[str, float] = defaultdict(float)
        once: dict[str, float] = defaultdict(float)
        _count(phase, 1, table, machine, busy, once)
        if not busy:
            continue  # moments of one term, say: nothing is left to do
        longest = max(busy, key=lambda pipe: busy[pipe])
        total += busy[longest] + sum(c for pipe, c in once.items() if pipe != longest)
    return total


def _count(
    stmt: Stmt,
    times: int,
    table: Mapping[str, Buffer],
    machine: Machine,
    busy: dict[str, float],
    once: dict[str, float],
) -> None:
    """Cycles by pipe: of all executions on one core, and of one of each instruction, with its latency."""
    if isinstance(stmt, Instr):
        pipe = pipe_of(stmt, table, machine)
        cost = cycles(stmt, table, machine)
        waits = stmt.opcode_class == "vector" and pipe in machine.unordered_pipes
        # What is not kept in order by itself is mostly waited for: work on a tile is a chain.
        busy[pipe] += times * (cost.latency if waits else cost.occupancy)
        once[pipe] += cost.latency
        return
    trips = ceil(stmt.extent / machine.cores) if stmt.parallel else stmt.extent
    for inner in stmt.body:
        _count(inner, times * trips, table, machine, busy, once)


def _near(machine: Machine) -> Iterator[tuple[str, ...]]:
    """Roles of the memories of a core, each with those that share its memory."""
    yield "vector", "scratch"
    yield from ((role,) for role in ("stage", "operand_a", "operand_b") if machine.has_role(role))


def _bytes(program: Program, machine: Machine, *spaces: str) -> int:
    """What the buffers in a memory take, two slots for those that copies fill or empty."""
    copied: set[str] = set()
    todo: list[Stmt] = list(program.body)
    while todo:
        stmt = todo.pop()
        if not isinstance(stmt, Instr):
            todo += stmt.body
        elif stmt.opcode_class != "vector":
            copied |= {a.buffer for a in (*stmt.dst, *stmt.sources)}
    align = machine.role(spaces[0]).align
    near = [b for b in program.buffers if b.space in spaces]
    return sum(ceil(b.slot_bytes / align) * align * (1 + (b.name in copied)) for b in near)
