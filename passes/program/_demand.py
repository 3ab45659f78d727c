"""Which slots and event ids a program would have liked, beside those that it got."""

from __future__ import annotations

from collections.abc import Mapping

from opc.machine.model import Machine
from opc.program.demand import Demand, Ids, Slots, Space
from opc.program.ir import Buffer, Instr, Loop, Program, instructions
from opc.program.liveness import phases
from opc.program.memory import offset_unit, pressure, slot_size
from passes.program._events import allocate
from passes.program._flags import Solver
from passes.program.multi_buffer import MultiBuffer, lives

PLENTY = 64  # event ids that never run out, and are few enough to count
LARGEST = 300  # instructions of a text that is solved again to count them


def demand(single: Program, unflagged: Program, final: Program, machine: Machine) -> Demand:
    """Of a program before ``multi-buffer``, before ``insert-sync`` and in the end."""
    given = {b.name: b for b in final.buffers}
    slots = [
        Slots(
            name, given[name].space, MultiBuffer().max_slots, given[name].slots, _bytes(given, name, machine)
        )
        for name in sorted(lives(single, machine))
        if name in given
    ]
    spaces = [
        Space(
            name,
            used,
            limit,
            max(0, _wish(final, slots, name, machine) - limit) if _short(slots, name) else 0,
        )
        for name, (used, limit) in pressure(final, machine).items()
    ]
    barriers = sum(i.op == "barrier" and i.flag is not None and i.flag[0] == "ALL" for i, _ in _flags(final))
    return Demand(spaces, slots, _ids(unflagged, final, machine), barriers)


def _bytes(buffers: Mapping[str, Buffer], name: str, machine: Machine) -> int:
    return slot_size(machine, buffers[name]) * offset_unit(machine, buffers[name])


def _short(slots: list[Slots], space: str) -> bool:
    return any(s.space == space and s.given < s.wanted for s in slots)


def _wish(program: Program, slots: list[Slots], space: str, machine: Machine) -> int:
    """Bytes of a space if every buffer had the slots that it wants, side by side in the worst phase."""
    wanted = {s.buffer: s.wanted for s in slots}
    size = {
        b.name: slot_size(machine, b) * offset_unit(machine, b) * max(b.slots, wanted.get(b.name, 1))
        for b in program.buffers
        if b.kind == "local" and b.space == space
    }
    return max((sum(size[n] for n in phase & size.keys()) for phase in phases(program)), default=0)


def _flags(program: Program) -> list[tuple[Instr, tuple[Loop, ...]]]:
    return [(i, loops) for i, loops in instructions(program.body) if i.opcode_class == "sync"]


def _ids(unflagged: Program, final: Program, machine: Machine) -> list[Ids]:
    used: dict[tuple[str, str], set[int]] = {}
    for i, loops in _flags(final):
        if i.op != "barrier" and i.flag is not None:
            source, target, event = i.flag
            extents = {loop.var: loop.extent for loop in loops}
            low, high = event.interval(extents)
            step = min((abs(c) for n, c in event.terms if extents[n] > 1), default=1)
            numbers = {
                n % machine.event_ids for n in range(low, min(high, low + step * machine.event_ids) + 1, step)
            }
            used.setdefault((source, target), set()).update(numbers)
    wanted = _wanted(unflagged, machine)
    pairs = sorted({*used, *(wanted or {})})
    return [
        Ids(
            *pair, None if wanted is None else wanted.get(pair, 0), machine.event_ids, len(used.get(pair, ()))
        )
        for pair in pairs
    ]


def _wanted(program: Program, machine: Machine) -> dict[tuple[str, str], int] | None:
    """Ids per pair where none is short; None for long texts."""
    if sum(1 for _ in instructions(program.body)) > LARGEST:
        return None
    most: dict[tuple[str, str], int] = {}
    for loop in program.body:
        if not isinstance(loop, Loop):
            continue
        core = loop if loop.parallel else Loop("core", 1, (loop,), True)
        events = allocate(Solver(program, machine).solve(core.body, (core,), {}), PLENTY, False)
        taken: dict[tuple[str, str], set[int]] = {}
        for (_, flag), base in events.base.items():
            taken.setdefault(flag.pair, set()).update(range(base, PLENTY, events.stride(flag)))
        for pair, numbers in taken.items():
            most[pair] = max(most.get(pair, 0), len(numbers))
    return most
