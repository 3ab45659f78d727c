"""What a machine allows: the invariants of program IR that need a machine file.

 1. E0560  Every space exists; memory kinds live in the memory space, local buffers of NPUs do not;
           element types are legal in memory.
 2. E0561  Offsets: one per slot, aligned, inside the space; slots of a buffer are disjoint; two buffers
           share bytes only when their live ranges are disjoint.
 3. E0562  The machine has a route for every instruction's class, source space and target space, and a pipe
           for prefetches, which read memory.
 4. E0563  Cube operands: spaces by role, element types the cube multiplies, the accumulator's type.
 5. E0564  Scale forms are the machine's; a changed type needs "convert"; factors are such as a drain takes,
           one or one per column of the accumulator.
 6. E0565  The vector unit has the function and the element types.
 7. E0566  Slots, and indices into spaces that are not addressable, are constant once "expanded".
 8. E0567  Sync: pipes exist, a flag's pipes differ; none on machines without flags.

Levels: "tiled" checks 1, 2 and 8; "legal" all but 7; "expanded" all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opc.dtypes import DType
from opc.errors import Diagnostic
from opc.machine.factor import Factor
from opc.machine.model import Machine
from opc.program import loan
from opc.program.ir import Buffer, Imm, Instr, Loop, Program, instructions
from opc.program.liveness import Lives, live_ranges, live_together, slot_name, split_slots
from opc.program.memo import Memo
from opc.program.memory import BLOB_ALIGN, capacity, may_spill, offset_unit, slot_size
from opc.program.text import print_stmt

LEVELS = ("tiled", "legal", "expanded")


def machine_problems(program: Program, machine: Machine, level: str, memo: Memo) -> list[Diagnostic]:
    """Every broken machine invariant of a structurally sound program, in program order."""
    table = program.table()
    found = [Diagnostic("E0560", m) for b in program.buffers for m in _placement(b, machine)]
    if found:
        return found
    found += [Diagnostic("E0561", m) for m in offset_problems(program, machine)]
    known: dict[object, list[tuple[str, str]]] = {}
    for instr, loops in instructions(program.body):
        if memo.legal(instr, level):
            continue
        checks = list(_sync(instr, machine))
        if level != "tiled":
            key = _alike(instr)
            if key not in known:
                known[key] = list(_legal(instr, table, machine))
            checks += known[key]
        if level == "expanded":
            checks += _constant(instr, loops, table, machine)
        if not checks:
            memo.allow(instr, level)
        found += [Diagnostic(code, message, notes=(f"in `{print_stmt(instr)}`",)) for code, message in checks]
    return found


def _alike(i: Instr) -> object:
    """Equal for instructions that a machine allows or refuses alike: unrolled copies, above all."""
    buffers = tuple(a.buffer for a in i.dst), tuple(a.buffer for a in i.sources)
    factors = (i.src, i.dims) if "scale" in i.scale else ()
    return i.opcode, len(i.src), i.scale, buffers, factors


def _placement(b: Buffer, machine: Machine) -> Iterator[str]:
    if b.space not in machine.spaces:
        yield f"buffer '{b.name}' is in space '{b.space}', which {machine.name} does not have"
        return
    memory = machine.roles.get("memory")
    # A thread of a CPU has a part of memory to itself; a core of an NPU does not.
    private = b.kind == "local" and machine.kind == "cpu"
    if not private and (b.kind == "local") == (b.space == memory):
        yield f"buffer '{b.name}' of kind {b.kind} cannot live in '{b.space}'"
    if b.kind != "local" and b.dtype not in machine.dtypes.get("memory", ()):
        yield f"buffer '{b.name}': {machine.name} has no {b.dtype} in memory"


def offset_problems(program: Program, machine: Machine) -> Iterator[str]:
    """What breaks E0561, in words."""
    yield from loan.problems(program)
    planned = [b for b in program.buffers if b.offsets]
    spans: list[_Span] = []
    for b in planned:
        unit, size = offset_unit(machine, b), slot_size(machine, b)
        if len(b.offsets) != b.slots:
            yield f"buffer '{b.name}' has {b.slots} slots and {len(b.offsets)} offsets"
        local, align = b.kind == "local", BLOB_ALIGN
        if local:
            align = machine.spaces[b.space].align if unit == 1 else 1
        limit = capacity(machine, b.space) if local and not may_spill(machine, b.space) else 0
        for slot, offset in enumerate(b.offsets):
            if offset % align:
                yield f"offset {offset} of '{b.name}' is not a multiple of {align}"
            if limit and offset + size > limit:
                yield f"'{b.name}' ends at {offset + size}, '{b.space}' has {limit}"
            if not b.lender or b.kind == "packed":  # what is lent was looked at above
                spans.append(_Span(b, slot, offset, offset + size))
    yield from _shared(program, spans)


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a slot lies: ``low`` to ``high``, exclusive."""

    buffer: Buffer
    slot: int
    low: int
    high: int


def _meetings(spans: list[_Span]) -> list[tuple[_Span, _Span]]:
    """Pairs that share bytes, in the order of the spans: in order of addresses only neighbours can."""
    number = {id(s): n for n, s in enumerate(spans)}
    found: list[tuple[int, int]] = []
    places: dict[tuple[str, str], list[_Span]] = {}
    for span in sorted(spans, key=lambda s: s.low):
        near = places.setdefault((span.buffer.kind, span.buffer.space), [])
        near[:] = [s for s in near if s.high > span.low]
        found += [(number[id(s)], number[id(span)]) for s in near if s.low < span.high]
        near.append(span)
    return [(spans[min(pair)], spans[max(pair)]) for pair in sorted(found, key=sorted)]


def _shared(program: Program, spans: list[_Span]) -> Iterator[str]:
    pairs = _meetings(spans)
    if not pairs:
        return  # most programs share nothing, and need no live ranges
    sharing = {span.buffer.name for pair in pairs for span in pair}
    whole = split_slots(program, sharing)
    split = {slot_name(span.buffer.name, span.slot) for pair in pairs for span in pair}
    ranges = live_ranges(whole, sharing | split)

    def lives(span: _Span) -> Lives:
        name = span.buffer.name
        return ranges[name] if name in ranges else ranges[slot_name(name, span.slot)]

    for a, b in pairs:
        if a.buffer is b.buffer:
            yield f"slots of '{a.buffer.name}' overlap"
        elif a.buffer.kind == "packed" or live_together(lives(a), lives(b)):
            where = f"{max(a.low, b.low)} to {min(a.high, b.high)}"
            yield f"'{a.buffer.name}' and '{b.buffer.name}' share bytes {where} while both live"


def _legal(i: Instr, table: Mapping[str, Buffer], machine: Machine) -> Iterator[tuple[str, str]]:
    if i.opcode_class == "sync":
        return
    yield from route_problems(i, table, machine)
    if i.opcode_class == "cube":
        yield from _cube(i, table, machine)
    elif i.opcode_class == "scale":
        yield from _scale(i, table, machine)
    elif i.opcode_class == "vector":
        yield from _vector(i, table, machine)


def route_problems(i: Instr, table: Mapping[str, Buffer], machine: Machine) -> Iterator[tuple[str, str]]:
    """Code and message for each way that an instruction needs and the machine does not have."""
    if i.op == "prefetch":
        if not machine.prefetch_pipe:
            yield "E0562", f"{machine.name} has no caches that a prefetch could fill"
        elif table[i.sources[0].buffer].kind == "local":
            yield "E0562", f"a prefetch reads memory, and '{i.sources[0].buffer}' is local"
        return
    target = table[i.dst[0].buffer].space
    # The second cube operand's space follows from its role, a drain's factors stay where they are.
    accesses = i.sources[:1] if i.opcode_class in ("cube", "scale") else i.sources
    sources = list(dict.fromkeys(table[a.buffer].space for a in accesses)) or [target]
    for source in sources:
        if machine.route(i.opcode_class, source, target) is None:
            yield "E0562", f"{machine.name} has no route for {i.opcode_class} from '{source}' to '{target}'"
    for d in i.dst[1:]:
        if table[d.buffer].space != target:
            yield "E0562", f"destinations of {i.opcode} are in '{target}' and '{table[d.buffer].space}'"


def _cube(i: Instr, table: Mapping[str, Buffer], machine: Machine) -> Iterator[tuple[str, str]]:
    acc = table[i.dst[0].buffer]
    operands = [table[s.buffer] for s in i.sources]
    if len(operands) != 2:
        yield "E0563", "cube.mma multiplies two buffers, not literals"
        return
    fed = machine.feeds(operands[0].dtype)
    roles = ("operand_a", "operand_b", machine.accumulator_role(operands[0].dtype))
    for role, b in zip(roles, (*operands, acc), strict=True):
        wanted = machine.roles.get(role) if fed or b is acc else None
        if wanted is not None and b.space != wanted:
            yield "E0563", f"'{b.name}' is the {role} and must be in '{wanted}', not '{b.space}'"
        if wanted is None and machine.route("cube", b.space, acc.space) is None:
            yield "E0563", f"the cube cannot read '{b.name}' in '{b.space}'"
    for b in operands:
        if b.dtype not in machine.dtypes.get("cube", ()):
            yield "E0563", f"the cube of {machine.name} does not multiply {b.dtype}"
    expected = machine.accumulators.get(operands[0].dtype)
    if operands[0].dtype != operands[1].dtype:
        yield "E0563", f"cube operands are {operands[0].dtype} and {operands[1].dtype}"
    elif expected is not None and acc.dtype != expected:
        yield "E0563", f"products of {operands[0].dtype} sum in {expected}, '{acc.name}' is {acc.dtype}"


def _scale(i: Instr, table: Mapping[str, Buffer], machine: Machine) -> Iterator[tuple[str, str]]:
    for form in i.scale:
        if form not in machine.scale_forms:
            yield "E0564", f"{machine.name} cannot '{form}' while it drains the accumulator"
    changes = i.sources and table[i.sources[0].buffer].dtype != table[i.dst[0].buffer].dtype
    if changes and "convert" not in i.scale:
        yield "E0564", "the drain changes the element type without 'convert'"
    if "scale" in i.scale and machine.scale_factor is not None:
        reason = factor_problem(i, table, machine, machine.scale_factor)
        if reason:
            yield "E0564", f"{machine.name} {reason}"


def factor_problem(i: Instr, table: Mapping[str, Buffer], machine: Machine, known: Factor) -> str:
    """Why a drain cannot multiply by its factor, in roles or spaces; empty if it can."""
    acc, factor = i.sources[0], i.src[1]
    kinds = table[acc.buffer].dtype, table[i.dst[0].buffer].dtype
    if isinstance(factor, Imm):
        return known.problem(*kinds, factor.value)
    buffer = table[factor.buffer]
    names = {name for name, extent in i.dims if extent > 1}
    column, _ = acc.index[-1].split(names)
    moving = [form for form in (f.split(names)[0] for f in factor.index) if form.terms]
    if moving not in ([], [column]):
        return f"takes one factor, or one per column of '{acc.buffer}'"
    return known.problem(*kinds, (buffer.dtype, machine.roles.get(buffer.space, buffer.space)))


def _vector(i: Instr, table: Mapping[str, Buffer], machine: Machine) -> Iterator[tuple[str, str]]:
    function = "reduce" if i.op.startswith("reduce_") else i.op
    if function not in machine.vector_functions and i.op not in machine.vector_functions:
        yield "E0565", f"the vector unit of {machine.name} has no '{i.op}'"
    legal: tuple[DType, ...] = machine.dtypes.get("vector", ())
    for b in dict.fromkeys(table[a.buffer] for a in (*i.dst, *i.sources)):
        if b.dtype not in legal:
            yield "E0565", f"the vector unit of {machine.name} has no {b.dtype} ('{b.name}')"


def _constant(
    i: Instr, loops: tuple[Loop, ...], table: Mapping[str, Buffer], machine: Machine
) -> Iterator[tuple[str, str]]:
    around = {loop.var for loop in loops}
    for a in (*i.dst, *i.sources):
        if machine.spaces[table[a.buffer].space].addressable:
            continue
        if a.slot.terms:
            yield "E0566", f"slot {a.slot} of '{a.buffer}' is not constant"
        for form in a.index:
            if form.terms and not around.isdisjoint([name for name, _ in form.terms]):
                yield "E0566", f"index {form} of '{a.buffer}' is not constant"


def _sync(i: Instr, machine: Machine) -> Iterator[tuple[str, str]]:
    if i.flag is None:
        return
    if machine.sync != "flags":
        yield "E0567", f"{machine.name} keeps program order, it has no {i.opcode}"
        return
    source, target, _ = i.flag
    for pipe in dict.fromkeys((source, target)):
        if pipe not in machine.pipes and not (pipe == "ALL" and i.op == "barrier"):
            yield "E0567", f"{machine.name} has no pipe '{pipe}'"
    if (source == target) != (i.op == "barrier"):
        yield "E0567", "a flag goes between two pipes, a barrier stays in one"
