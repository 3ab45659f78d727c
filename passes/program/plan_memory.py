"""Byte offsets for local buffers, and for the packed and workspace blobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opc.errors import MachineError, OpcError, fail
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Buffer, Module, Program, map_programs
from opc.program.liveness import LiveRange, Lives, live_ranges, live_together, phases
from opc.program.loan import PACKED, loans
from opc.program.memory import BLOB_ALIGN, capacity, may_spill, round_up, slot_size
from passes.program._shapes import rows_of

Conflicts = Callable[[Buffer], Collection[str]]  # names of the buffers that one may not share bytes with
Placed = list[tuple[Buffer, int]]
Offsets = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class PlanMemory:
    """Give every slot of every buffer its own range of its space.

    Sizes are rounded up to the space's fractal and alignment. Buffers of different phases (top-level parallel
    loops, say) always share memory. Within one, three policies are tried, and the first that fits the
    capacity is taken, because shared bytes become dependences that hinder overlapping: nothing shared;
    sharing only where a buffer finds no free room; sharing wherever two buffers never live together.
    Larger buffers are placed first, each in the tightest gap that holds it.

    Offsets in spaces without addresses number registers or tiles. Vector registers may exceed their
    number (LLVM spills); every other excess raises MachineError E0650 with what must shrink. Workspace
    ranges are shared by buffers of disjoint statements; packed buffers follow each other by name, so
    that prepare and run agree, and those that already have an offset keep it. On a CPU workspace and the blob of
    packed buffers lie, where there is room, in results that are written later (`opc/program/loan.py`). ``share`` goes
    straight to the last policy, to see how little memory a program needs.

    Before:
        program v1 add machine ascend910 {
          buffer x: f16[64]@gm input
          buffer y: f16[64]@gm output
          buffer t: f16[64]@ub local slots 2
          buffer u: f16[8]@ub local
          loop i < 1 {
            copy_in.copy t{i}[j] = x[j] for j<64
            copy_in.copy u[j] = x[j] for j<8
            vector.add t{i}[j] = t{i}[j], u[j] for j<8
            copy_out.copy y[j] = t{i}[j] for j<64
          }
        }

    After:
        program v1 add machine ascend910 {
          buffer x: f16[64]@gm input
          buffer y: f16[64]@gm output
          buffer t: f16[64]@ub local slots 2 at 0, 128
          buffer u: f16[8]@ub local at 256
          loop i < 1 {
            copy_in.copy t{i}[j] = x[j] for j<64
            copy_in.copy u[j] = x[j] for j<8
            vector.add t{i}[j] = t{i}[j], u[j] for j<8
            copy_out.copy y[j] = t{i}[j] for j<64
          }
        }
    """

    share: bool = False
    name: ClassVar[str] = "plan-memory"
    level: ClassVar[str] = "program"

    def run(self, ir: Module | Program, context: Context) -> Module | Program:
        packed = _packed(ir.programs if isinstance(ir, Module) else (ir,))
        return map_programs(ir, lambda program: self.rewrite(program, context.machine, packed))

    def rewrite(self, program: Program, machine: Machine, packed: Offsets) -> Program:
        """One program with all offsets."""
        if all(b.offsets for b in program.buffers if b.kind in ("local", "packed", "workspace")):
            return program
        if machine.kind == "cpu":
            program = borrowed(program, packed)
        planner = _Planner(program, machine)
        offsets = packed | planner.workspace()
        for space in sorted({b.space for b in program.buffers if b.kind == "local"}):
            offsets |= planner.local(space, self.share)
        buffers = tuple(replace(b, offsets=offsets.get(b.name, b.offsets)) for b in program.buffers)
        return replace(program, buffers=buffers)


def workspace_offsets(program: Program, machine: Machine) -> Offsets:
    """Where the workspace buffers would be that no result lends memory."""
    own = [b.name for b in program.buffers if b.kind == "workspace" and not b.lender]
    return _Planner(program, machine, own).workspace()


def borrowed(program: Program, packed: Mapping[str, tuple[int, ...]]) -> Program:
    """The program with workspace and packed parameters in results that are written later, where there is room.

    ``packed`` are the offsets in the packed blob, which lies in a result only if run knows all of it.
    """
    program = replace(
        program, buffers=tuple(replace(b, offsets=packed.get(b.name, b.offsets)) for b in program.buffers)
    )
    given = loans(program)
    last = max(packed, key=lambda name: packed[name], default="")
    if last and last not in program.table():
        given.pop(PACKED, None)

    def placed(b: Buffer) -> Buffer:
        room = given.get(PACKED if b.kind == "packed" else b.name)
        if room is None or b.kind not in ("packed", "workspace"):
            return b
        return replace(b, lender=room.lender, offsets=(room.start,) if b.kind == "workspace" else b.offsets)

    return replace(program, buffers=tuple(map(placed, program.buffers)))


def _packed(programs: Sequence[Program]) -> Offsets:
    """Offsets in the packed blob: one answer for prepare and run."""
    buffers = {b.name: b for p in programs for b in p.buffers if b.kind == "packed"}
    offsets = {name: b.offsets for name, b in buffers.items() if b.offsets}
    end = max((start + buffers[name].slot_bytes for name, (start,) in offsets.items()), default=0)
    for name in sorted(buffers.keys() - offsets.keys()):
        end = round_up(end, BLOB_ALIGN)
        offsets[name] = (end,)
        end += buffers[name].slot_bytes
    return offsets


class _Planner:
    """One program's buffers, their live ranges and the top-level statements that use them."""

    def __init__(self, program: Program, machine: Machine, only: Collection[str] | None = None) -> None:
        self.program, self.machine = program, machine
        self.ranges = live_ranges(program, only)
        self.size = {b.name: slot_size(machine, b) for b in program.buffers}
        self.phases = phases(program)
        self.together = _together(self.ranges)

    def same_phase(self, b: Buffer) -> Collection[str]:
        return frozenset[str]().union(*(names for names in self.phases if b.name in names))

    def both_live(self, b: Buffer) -> Collection[str]:
        return self.together[b.name]

    def local(self, space: str, share: bool) -> Offsets:
        """Offsets in a local space; raises MachineError (E0650) if no policy fits."""
        buffers = [b for b in self.program.buffers if b.kind == "local" and b.space == space]
        limit = capacity(self.machine, space)
        s = self.machine.spaces[space]
        alike = () if s.addressable or s.fractal is None else (self.alike,)
        first = () if limit and self.least(buffers) > limit else (self.apart,)
        for policy in (self.shared,) if share else (*first, *alike, self.reluctant, self.shared):
            placed = policy(buffers, limit)
            top = max((start + self.size[b.name] for b, start in placed), default=0)
            if not limit or top <= limit:
                return _by_name(placed)
        if may_spill(self.machine, space):
            return _by_name(placed)
        raise self.overflow(space, buffers, limit)

    def least(self, buffers: list[Buffer]) -> int:
        """What the fullest phase takes where nothing is shared."""
        return max(
            (sum(self.size[b.name] * b.slots for b in buffers if b.name in names) for names in self.phases),
            default=0,
        )

    def order(self, buffers: list[Buffer]) -> list[Buffer]:
        """One entry per slot, large first, then by first use."""

        def key(b: Buffer) -> tuple[int, int, str]:
            first = min((r.first for r in self.ranges[b.name]), default=0)
            return -self.size[b.name] * b.slots, first, b.name

        by_size = sorted(buffers, key=key)
        return [b for b in by_size for _ in range(b.slots)]

    def apart(self, buffers: list[Buffer], limit: int) -> Placed:
        placed: Placed = []
        for b in self.order(buffers):
            placed.append((b, self.gap(b, placed, self.same_phase)))
        return placed

    def alike(self, buffers: list[Buffer], limit: int) -> Placed:
        """Matrix registers shared by buffers of one shape only, so that they need not be set up again."""

        def conflicts(b: Buffer) -> Collection[str]:
            other = {a.name for a in buffers if rows_of(a) != rows_of(b)}
            return self.together[b.name] | (other & frozenset(self.same_phase(b)))

        placed: Placed = []
        for b in self.order(buffers):
            placed.append((b, self.gap(b, placed, conflicts)))
        return placed

    def reluctant(self, buffers: list[Buffer], limit: int) -> Placed:
        placed: Placed = []
        for b in self.order(buffers):
            start = self.gap(b, placed, self.same_phase)
            if start + self.size[b.name] > limit:
                start = self.gap(b, placed, self.both_live)
            placed.append((b, start))
        return placed

    def shared(self, buffers: list[Buffer], limit: int) -> Placed:
        placed: Placed = []
        for b in self.order(buffers):
            placed.append((b, self.gap(b, placed, self.both_live)))
        return placed

    def gap(self, b: Buffer, placed: Placed, conflicts: Conflicts) -> int:
        """Start of the smallest free gap that holds one slot of ``b`` beside what it conflicts with."""
        size, near = self.size[b.name], {b.name, *conflicts(b)}
        taken = sorted(
            (start, start + self.size[other.name]) for other, start in placed if other.name in near
        )
        best: tuple[int, int] | None = None
        end = 0
        for start, stop in taken:
            room = start - end
            if room >= size and (best is None or room < best[0]):
                best = (room, end)
            end = max(end, stop)
        return end if best is None else best[1]

    def workspace(self) -> Offsets:
        buffers = [b for b in self.program.buffers if b.kind == "workspace" and not b.lender]
        return _by_name(self.shared(buffers, 0))

    def overflow(self, space: str, buffers: list[Buffer], limit: int) -> OpcError:
        """The error that names what is live where most is live."""
        size = {b.name: self.size[b.name] * b.slots for b in buffers}
        # Most is live where some buffer's life begins.
        starts = [LiveRange(r.first, r.first) for b in buffers for r in self.ranges[b.name]]
        groups = [[b for b in buffers if live_together(self.ranges[b.name], (start,))] for start in starts]
        peak = max(groups, key=lambda group: sum(size[b.name] for b in group))
        peak.sort(key=lambda b: (-size[b.name], b.name))
        needed = sum(size[b.name] for b in peak)
        unit = "bytes" if self.machine.spaces[space].addressable else "registers"
        what = f"buffers that live together in '{space}' of {self.machine.name}"
        if needed > limit:
            message = f"{what} need {needed} {unit}, it has {limit}"
            shrink = f"shrink '{peak[0].name}' by {needed - limit} {unit}"
            help = f"choose smaller tiles: {shrink}, or use fewer slots"
        else:
            message = f"{what} leave gaps too small to place them all in {limit} {unit}"
            help = f"choose smaller tiles: shrink '{peak[0].name}', or use fewer slots"
        notes = tuple(
            f"'{b.name}' {b.dtype}[{','.join(map(str, b.shape))}] takes {size[b.name]} {unit}"
            + (f" in {b.slots} slots" if b.slots > 1 else "")
            for b in peak
        )
        return fail(MachineError, "E0650", message, notes=notes, help=help)


def _together(ranges: Mapping[str, Lives]) -> dict[str, set[str]]:
    """By buffer those that live at some instruction where it lives: all lives in order of their begin."""
    found: dict[str, set[str]] = {name: set() for name in ranges}
    alive: list[tuple[int, str]] = []
    for first, last, name in sorted((r.first, r.last, name) for name, lives in ranges.items() for r in lives):
        alive = [(end, other) for end, other in alive if end >= first]
        for _, other in alive:
            found[name].add(other)
            found[other].add(name)
        alive.append((last, name))
    return found


def _by_name(placed: Placed) -> Offsets:
    offsets: Offsets = {}
    for b, start in placed:
        offsets[b.name] = (*offsets.get(b.name, ()), start)
    return {name: tuple(sorted(starts)) for name, starts in offsets.items()}
