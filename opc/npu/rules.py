"""Rules each instruction and placement must keep on its own, before any order is looked at."""

from __future__ import annotations

from math import prod

from opc.errors import Diagnostic
from opc.machine.model import Machine
from opc.npu.explain import short, span
from opc.npu.listing import ALL, Instruction, Listing, Phase, Region, instructions
from opc.npu.shapes import class_of

ELEMENTS = 1 << 26  # of one instruction: far more than a local memory holds


def placement_problems(listing: Listing, machine: Machine) -> list[Diagnostic]:
    """Buffers outside their space or off its alignment."""
    found = []
    for b in listing.buffers:
        space = machine.spaces.get(b.space)
        if space is None or b.space == machine.roles["memory"]:
            found.append(Diagnostic("E0819", f"buffer '{b.name}' lies in '{b.space}', no local space"))
            continue
        for at in b.offsets:
            if space.capacity and at + b.bytes > space.capacity:
                message = f"buffer '{b.name}' at {b.space} bytes {at}..{at + b.bytes - 1} does not fit: "
                found.append(Diagnostic("E0816", message + f"{b.space} has {space.capacity} bytes"))
            if at % space.align:
                message = f"buffer '{b.name}' at {b.space} byte {at} is not aligned to {space.align}"
                found.append(Diagnostic("E0817", message))
    return found


def phase_problems(listing: Listing, phase: Phase, machine: Machine) -> list[Diagnostic]:
    """Unknown pipes, spaces and tensors, event ids out of range, misaligned elements."""
    found: list[Diagnostic] = []
    tensors = {t.name for t in listing.tensors}
    for i, loops in instructions(phase.body):
        extents = {phase.var: phase.extent} | {loop.var: loop.extent for loop in loops}
        if any(e < 1 for e in extents.values()):
            continue
        message = _sync_problem(i, extents, machine) if i.flag is not None else _problem(i, tensors, machine)
        if message is None and i.flag is None:
            message = _alignment_problem(i, extents)
            if message is not None:
                found.append(Diagnostic("E0817", message, span(listing, i)))
            continue
        if message is not None:
            found.append(Diagnostic("E0819", message, span(listing, i)))
    return found


def _sync_problem(i: Instruction, extents: dict[str, int], machine: Machine) -> str | None:
    assert i.flag is not None
    source, target, event = i.flag
    if i.mnemonic == "pipe_barrier":
        known = source == ALL or source in machine.pipes
        return None if known else f"'pipe_barrier {source}': {machine.name} has no pipe '{source}'"
    for pipe in (source, target):
        if pipe not in machine.pipes:
            return f"'{i.mnemonic} {source}, {target}': {machine.name} has no pipe '{pipe}'"
    if source == target:
        return f"'{i.mnemonic} {source}, {target}' joins a pipe to itself; use pipe_barrier {source}"
    if event.names - set(extents):
        return f"'{i.mnemonic} {source}, {target}, {event}' uses an unknown loop variable"
    low, high = (0, i.modulo - 1) if i.modulo else event.interval(extents)
    if low < 0 or high >= machine.event_ids:
        message = f"'{i.mnemonic} {source}, {target}, {event}' uses event ids {low}..{high}; "
        return message + f"{machine.name} has 0..{machine.event_ids - 1} per pair of pipes"
    return None


def _problem(i: Instruction, tensors: set[str], machine: Machine) -> str | None:
    memory = machine.roles["memory"]
    if prod(i.extents) > ELEMENTS:
        return f"{short(i)} has {prod(i.extents)} elements, more than {ELEMENTS}"
    for r in (*i.dst, *i.sources):
        if r.space not in machine.spaces:
            return f"{short(i)}: {machine.name} has no space '{r.space}'"
        if (r.space == memory) != bool(r.tensor) or (r.tensor and r.tensor not in tensors):
            return f"{short(i)} names no declared tensor in {r.space}"
    source = i.sources[0].space if i.sources else i.dst[0].space
    route = machine.route(class_of(i, machine), source, i.dst[0].space)
    strange = [form for form in i.scale if form not in machine.scale_forms]
    if strange:
        return f"{short(i)}: {machine.name} cannot apply '{strange[0]}' while draining"
    reason = _factor_problem(i, machine)
    if reason:
        return f"{short(i)}: {machine.name} {reason}"
    if route is None or route.pipe != i.pipe:
        right = f"it runs on {route.pipe}" if route else f"no route from {source} to {i.dst[0].space}"
        return f"{short(i)} cannot run on {machine.name}: {right}"
    return None


def _factor_problem(i: Instruction, machine: Machine) -> str:
    """Why the drain cannot multiply by its factor; empty if it can, or if it multiplies by none."""
    if "scale" not in i.scale or machine.scale_factor is None:
        return ""
    acc, factor = i.sources[0], i.src[1]
    kinds = acc.dtype, i.dst[0].dtype
    if not isinstance(factor, Region):
        return machine.scale_factor.problem(*kinds, factor.value)
    steps = zip(factor.strides, acc.strides, strict=True)
    if not all(step in (0, column) for step, column in steps):
        return "takes one factor, or one per column of the accumulator"
    return machine.scale_factor.problem(*kinds, (factor.dtype, factor.space))


def _alignment_problem(i: Instruction, extents: dict[str, int]) -> str | None:
    for r in (*i.dst, *i.sources):
        if _misaligned(r, i, extents):
            where = r.tensor or r.space
            what = f"{r.dtype} elements in {where} are not aligned to {r.dtype.bytes}"
            return f"{short(i)}: {what}"
    return None


def _misaligned(r: Region, i: Instruction, extents: dict[str, int]) -> bool:
    size = r.dtype.bytes
    steps = [c for v, c in r.base.terms if extents.get(v, 2) > 1]
    steps += [s for s, e in zip(r.strides, i.extents, strict=True) if e > 1]
    return any(n % size for n in (r.base.const, *steps, *r.table))
