"""What each instruction of one core's trace must wait for, to the byte.

``dependence`` answers for all iterations at once and errs towards a conflict; this module unrolls the loops and
compares the bytes that each execution touches. Its answers do not depend on flags and barriers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from opc.affine import Affine
from opc.machine.model import Machine
from opc.program.footprints import Memory
from opc.program.intervals import Footprint, Runs, box_runs, within
from opc.program.ir import Access, Buffer, Instr, Loop, Program, instructions
from opc.program.pipes import pipe_of
from opc.program.unroll import Ranges, text_order, values

Need = tuple[
    tuple[str, int], ...
]  # pipe -> number (on that pipe, from 0) of the last instruction to wait for


@dataclass(frozen=True, slots=True)
class Trace:
    """One core's instructions: the texts, the order they run in, the pipe of each, and what each needs."""

    texts: tuple[Instr, ...]
    ranges: tuple[Ranges, ...]
    pipes: tuple[str, ...]
    order: list[int]
    needs: list[Need]  # by position in ``order``


def trace(loop: Loop, program: Program, machine: Machine, core: int = 0) -> Trace:
    """The trace of one core of a parallel loop. On pipes that keep their order no instruction needs its own pipe."""
    iterations = range(core, loop.extent, machine.cores)
    found = list(instructions(loop.body))
    texts = tuple(i for i, _ in found)
    known: dict[int, Ranges] = {}  # instructions of one body share their loops
    for _, loops in found:
        if id(loops) not in known:
            known[id(loops)] = (
                (loop.var, iterations),
                *((inner.var, range(inner.extent)) for inner in loops),
            )
    ranges = tuple(known[id(loops)] for _, loops in found)
    order = text_order(loop.body)[0] * len(iterations)
    table = program.table()
    pipes = tuple(pipe_of(i, table, machine) for i in texts)
    return Trace(texts, ranges, pipes, order, _needs(texts, ranges, pipes, order, table, machine))


def alike(loop: Loop, program: Program) -> bool:
    """Whether iterations of a parallel loop differ in global addresses only, and there by one step.

    Then one iteration stands for all, and a core that runs fewer runs a prefix of what another does.
    """
    table = program.table()
    steps: dict[str, set[int]] = {}
    written = set()
    for i, _ in instructions(loop.body):
        written |= {a.buffer for a in i.dst if table[a.buffer].kind != "local"}
        for a in (*i.dst, *i.sources):
            buffer = table[a.buffer]
            if buffer.kind != "local":
                steps.setdefault(a.buffer, set()).add(linear(a, buffer).coefficient(loop.var))
            elif any(loop.var in form.names for form in (*a.index, a.slot)):
                return False
    near = {name: [n for n in steps if _shares(table[name], table[n])] for name in written}
    return all(len(set().union(*(steps[n] for n in names))) < 2 for names in near.values())


def _shares(one: Buffer, other: Buffer) -> bool:
    """Whether two buffers of memory have a byte in common, as far as is known."""
    if one.name == other.name or _memory(one) != _memory(other):
        return one.name == other.name
    if not one.offsets or not other.offsets:
        return True
    (a, b) = (one.offsets[0], other.offsets[0])
    return a < b + other.slot_bytes and b < a + one.slot_bytes


@lru_cache(maxsize=65536)
def linear(access: Access, buffer: Buffer) -> Affine:
    """Bytes from the start of a slot to the element."""
    found, pitch = Affine(), buffer.dtype.bytes
    for form, extent in zip(reversed(access.index), reversed(buffer.shape), strict=True):
        found, pitch = found + form * pitch, pitch * extent
    return found


@lru_cache(maxsize=65536)
def _placed(access: Access, dims: tuple[tuple[str, int], ...], buffer: Buffer) -> tuple[Runs, Affine]:
    """Bytes of an operand whose first element is at 0, and where in a slot that element is."""
    address = linear(access, buffer)
    strides = tuple(address.coefficient(name) for name, _ in dims)
    runs = box_runs(tuple(e for _, e in dims), strides, buffer.dtype.bytes)
    return runs, address.split(name for name, _ in dims)[1]


def _needs(
    texts: tuple[Instr, ...],
    ranges: tuple[Ranges, ...],
    pipes: tuple[str, ...],
    order: list[int],
    table: Mapping[str, Buffer],
    machine: Machine,
) -> list[Need]:
    touched = _Touched(texts, ranges, table).by_text
    names = tuple(dict.fromkeys(pipes))
    of_text = [names.index(p) for p in pipes]
    count, executions = [0] * len(names), [0] * len(texts)
    found: list[Need] = []
    for position, j in enumerate(order):
        pipe, k = of_text[j], executions[j]
        executions[j] = k + 1
        number = count[pipe]
        count[pipe] = number + 1
        last: dict[int, int] = {}
        for memory, regions, writes in touched[j]:
            _meet(memory, regions[k], writes, last)
        for memory, regions, writes in touched[j]:
            (memory.writes if writes else memory.reads)[regions[k]][pipe] = (number, position)
        if names[pipe] not in machine.unordered_pipes:
            last.pop(pipe, None)
        found.append(tuple((names[p], n) for p, n in last.items()))
    return found


def _meet(memory: Memory, region: int, writes: bool, last: dict[int, int]) -> None:
    """Put the last conflicting access of every pipe into ``last``."""
    for other in memory.adjacent[region]:
        for seen in (memory.writes[other], memory.reads[other]) if writes else (memory.writes[other],):
            for pipe, (number, _) in seen.items():
                if number > last.get(pipe, -1):
                    last[pipe] = number


class _Touched:
    """For each text (memory, region at each execution, whether it is written), per operand."""

    def __init__(
        self, texts: tuple[Instr, ...], ranges: tuple[Ranges, ...], table: Mapping[str, Buffer]
    ) -> None:
        self.table = table
        written = {_memory(table[a.buffer]) for i in texts for a in i.dst}
        self.memories: dict[str, Memory] = {}
        self.by_text: list[list[tuple[Memory, list[int], bool]]] = []
        for i, r in zip(texts, ranges, strict=True):
            operands = [(a, False) for a in i.sources] + [(a, True) for a in i.dst]
            self.by_text.append(
                [
                    (*self._regions(a, i, r), writes)
                    for a, writes in operands
                    if _memory(table[a.buffer]) in written and i.op != "prefetch"
                ]
            )

    def _regions(self, access: Access, i: Instr, ranges: Ranges) -> tuple[Memory, list[int]]:
        buffer = self.table[access.buffer]
        runs, base = _placed(access, i.dims, buffer)
        offsets = buffer.offsets or tuple(n * buffer.slot_bytes for n in range(buffer.slots))
        slots = values(access.slot, ranges) if len(offsets) > 1 else [0] * len(values(Affine(), ranges))
        memory = self._of(buffer)
        starts = values(base, ranges)
        inside = [runs] * len(starts)
        if i.fill is not None:  # what lies before the buffer and behind it is filled, not read
            inside = [within(runs, -at, buffer.slot_bytes - at) for at in starts]
        return memory, [
            memory.intern(Footprint(at + offsets[slot % len(offsets)], touched))
            for at, slot, touched in zip(starts, slots, inside, strict=True)
        ]

    def _of(self, buffer: Buffer) -> Memory:
        name = _memory(buffer)
        if name not in self.memories:
            same = [b for b in self.table.values() if _memory(b) == name]
            size = max(max(b.offsets, default=0) + b.slots * b.slot_bytes for b in same)
            self.memories[name] = Memory(name, size)
        return self.memories[name]


def _memory(buffer: Buffer) -> str:
    """The memory a buffer lies in; a buffer without an address, and every argument, is one of its own."""
    if not buffer.offsets:
        return f".{buffer.name}"
    return buffer.space if buffer.kind == "local" else buffer.kind
