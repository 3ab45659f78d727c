"""Sentences about what is wrong with a listing: instruction, memory, byte range, source line."""

from __future__ import annotations

from opc.errors import Diagnostic, Span
from opc.npu.engine import Plan
from opc.npu.expand import Static
from opc.npu.happens import Race, Verdict
from opc.npu.listing import Instruction, Listing
from opc.npu.text import places, print_instruction
from opc.program.footprints import Memory


def short(i: Instruction) -> str:
    """An instruction in a sentence."""
    if i.flag is not None:
        return f"'{print_instruction(i)}'"
    return f"'{i.pipe} {i.mnemonic}'" + (f" (line {i.line})" if i.line else "")


def _at(s: Static, execution: int) -> str:
    values = ", ".join(f"{v}={n}" for v, n in s.environment(execution).items())
    return f"at {values}: {print_instruction(s.instruction)}"


def _bytes(memory: str, low: int, high: int, listing: Listing) -> str:
    """A byte range and the buffer or tensor it lies in."""
    owners = [
        b.name
        for b in listing.buffers
        if b.space == memory and any(at < high and low < at + b.bytes for at in b.offsets)
    ]
    owners += [
        t.name
        for t in listing.tensors
        if t.blob == memory != t.name and t.offset < high and low < t.offset + t.bytes
    ]
    of = f" of {', '.join(owners)}" if owners else ""
    return f"{memory} bytes {low}..{high - 1}{of}"


def span(listing: Listing, i: Instruction) -> Span | None:
    """Where the instruction stands in the listing's canonical text."""
    place = places(listing).get(id(i))
    return Span(f"{listing.name}.npu", *place) if place else None


def _execution(plan: Plan, position: int) -> tuple[Static, int]:
    j = plan.trace.order[position]
    return plan.trace.statics[j], plan.trace.order[:position].count(j)


def verdict(v: Verdict, plan: Plan, listing: Listing, core: int, ids: int) -> list[Diagnostic]:
    """The diagnostics of one core's happens-before pass; ``ids`` are the event ids of a pair of pipes."""
    found = [_race(r, plan, listing, core, ids) for r in v.races]
    for first, second in v.doubled:
        s, k = _execution(plan, second)
        earlier, at = _execution(plan, first)
        message = f"{short(s.instruction)} on core {core} may set a flag that is still set"
        notes = (f"set before {_at(earlier, at)}", f"set again {_at(s, k)}")
        help = "the wait for the first setting must happen before the second: order it by a flag back"
        found.append(Diagnostic("E0812", message, span(listing, s.instruction), notes=notes, help=help))
    found += _unmatched(v, plan, listing, core)
    return found


def _race(r: Race, plan: Plan, listing: Listing, core: int, ids: int) -> Diagnostic:
    first, k = _execution(plan, r.first)
    second, n = _execution(plan, r.second)
    one, two = first.instruction, second.instruction
    verbs = "writes" if r.second_writes else "reads", "write" if r.first_writes else "read"
    state = "has already run when" if r.reversed else "may run before"
    message = (
        f"{short(two)} on core {core} {verbs[0]} {_bytes(r.memory.name, *r.shared, listing)}; "
        f"nothing orders it after the {verbs[1]} by {short(one)}"
    )
    if r.reversed:
        message = (
            f"{short(two)} on core {core} {verbs[0]} {_bytes(r.memory.name, *r.shared, listing)}; "
            f"it {state} {short(one)}, which comes first in the listing, {verbs[1]}s them"
        )
    kind = f"{'write' if r.second_writes else 'read'} after {'write' if r.first_writes else 'read'}"
    pipes = f"within {one.pipe}" if one.pipe == two.pipe else f"between {one.pipe} and {two.pipe}"
    notes = (
        f"{kind} {pipes}",
        f"first {_place(listing, one)}{_at(first, k)}",
        f"second {_place(listing, two)}{_at(second, n)}",
    )
    help = _mend(plan, one, two, ids)
    return Diagnostic("E0811", message, span(listing, two), notes=notes, help=help)


def _place(listing: Listing, i: Instruction) -> str:
    where = span(listing, i)
    return f"(line {where.line} of the listing) " if where is not None else ""


def _mend(plan: Plan, one: Instruction, two: Instruction, ids: int) -> str:
    """What would order the two."""
    if one.pipe == two.pipe:
        return f"put pipe_barrier {one.pipe} between them"
    used = {event for source, target, event in plan.names if (source, target) == (one.pipe, two.pipe)}
    free = next((str(n) for n in range(ids) if n not in used), "an id that is not set there")
    return f"put set_flag {one.pipe}, {two.pipe}, {free} after the first and wait_flag before the second"


def _unmatched(v: Verdict, plan: Plan, listing: Listing, core: int) -> list[Diagnostic]:
    found = []
    if v.stuck:
        heads = [_execution(plan, p) for p in v.stuck]
        s, k = heads[0]
        message = f"deadlock on core {core}: {short(s.instruction)} waits for a flag that cannot be set"
        notes = [f"pipe {h.instruction.pipe} stands {_at(h, n)}" for h, n in heads]
        if v.position < len(plan.trace.order):
            notes.append(f"dispatch stands {_at(*_execution(plan, v.position))}")
        help = "every wait_flag needs a set_flag that can run before it"
        found.append(
            Diagnostic("E0814", message, span(listing, s.instruction), notes=tuple(notes), help=help)
        )
    # A set that a stuck pipe would have waited for is the deadlock's consequence, not a fault of its own.
    for position in v.left if not v.stuck else ():
        s, k = _execution(plan, position)
        message = f"{short(s.instruction)} on core {core} sets a flag that nothing waits for"
        help = "add the wait_flag, or remove the set_flag: a flag left set breaks the next kernel"
        found.append(
            Diagnostic("E0813", message, span(listing, s.instruction), notes=(_at(s, k),), help=help)
        )
    return found


def outside(s: Static, k: int, memory: Memory, where: tuple[int, int], listing: Listing) -> Diagnostic:
    """An access outside its memory."""
    low, high = where
    message = (
        f"{short(s.instruction)} accesses {memory.name} bytes {low}..{high - 1}, "
        f"but {memory.name} has {memory.size} bytes"
    )
    return Diagnostic("E0816", message, span(listing, s.instruction), notes=(_at(s, k),))


def uninitialised(s: Static, k: int, memory: Memory, where: tuple[int, int], listing: Listing) -> Diagnostic:
    """A read of bytes nothing has written."""
    message = (
        f"{short(s.instruction)} reads {_bytes(memory.name, *where, listing)}, which nothing has written"
    )
    help = "an earlier iteration of the cores does not count: local memory holds junk when one starts"
    return Diagnostic("E0815", message, span(listing, s.instruction), notes=(_at(s, k),), help=help)


def overwritten(s: Static, k: int, memory: Memory, where: tuple[int, int], listing: Listing) -> Diagnostic:
    """An instruction whose result overlaps its own operand."""
    message = (
        f"{short(s.instruction)} writes {_bytes(memory.name, *where, listing)} while it still reads them "
        "as other elements"
    )
    help = "an instruction may work in place only where both sides have the same address and strides"
    return Diagnostic("E0820", message, span(listing, s.instruction), notes=(_at(s, k),), help=help)
