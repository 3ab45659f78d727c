"""Proof that a listing is safe whatever its timing: no race, no lost or missing flag, no deadlock, no
uninitialised read, no access outside a memory.

The proof runs over the expanded trace of one core per distinct core program (cores usually differ only in
the global memory they touch) and then over global memory across cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from opc.errors import Diagnostic, ListingError
from opc.machine import Machine, load
from opc.npu import explain
from opc.npu.access import footprints, reads_destination
from opc.npu.engine import Plan, plan
from opc.npu.expand import Static, expand
from opc.npu.globals import GlobalCheck
from opc.npu.happens import Access, Pass, Verdict
from opc.npu.listing import Instruction, Listing, Phase, Region, Tensor, instructions
from opc.npu.rules import phase_problems, placement_problems
from opc.npu.text import print_listing
from opc.program.footprints import Memory
from opc.program.intervals import Coverage, Footprint

LIMIT = 20  # diagnostics in one error


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proved. ``races`` is 0: otherwise ``prove`` raises."""

    programs: int  # distinct core programs
    instructions: int  # dynamic instructions over all of them
    flags: int  # set/wait pairs
    pairs: int  # ordered pairs of conflicting accesses
    races: int = 0

    def __str__(self) -> str:
        return (
            f"{self.races} races in {self.pairs} conflicting pairs, {self.flags} flags, "
            f"{self.instructions} instructions, {self.programs} core programs"
        )


def prove(listing: Listing, machine: Machine | None = None) -> Proof:
    """Prove the listing safe. Raises ListingError (E0811-E0819) with every problem found."""
    machine = machine or load(listing.machine)
    problems = placement_problems(listing, machine)
    for phase in listing.phases:
        problems += phase_problems(listing, phase, machine)
    if problems:
        raise ListingError(problems[:LIMIT], print_listing(listing))
    programs = count = flags = pairs = 0
    shared = GlobalCheck(listing, machine)
    for phase in listing.phases:
        for core in _representatives(listing, phase, machine):
            run = _Core(listing, phase, core, machine)
            problems += run.problems()
            programs += 1
            count += len(run.plan.trace.order)
            flags += sum(map(len, run.order.waits))
            pairs += run.verdict.checked
        problems += shared.phase(phase)
    if problems:
        raise ListingError(problems[:LIMIT], print_listing(listing))
    return Proof(programs, count, flags, pairs)


def verdict_of(listing: Listing, phase: Phase, core: int, machine: Machine) -> Verdict:
    """What happens-before says about one core's program: races, flags and deadlock alone."""
    return _Core(listing, phase, core, machine).verdict


def _representatives(listing: Listing, phase: Phase, machine: Machine) -> range:
    """Cores whose programs differ in more than global addresses, and there by more than one step.

    A core with fewer iterations runs a prefix of core 0's trace; flags are balanced per iteration if they
    are balanced over all, so the prefix is as safe.
    """
    found = [i for i, _ in instructions(phase.body)]
    tensors = {t.name: t for t in listing.tensors}
    steps: dict[str, set[int]] = {}
    for i in found:
        for r in (*i.dst, *i.sources):
            if r.tensor:
                steps.setdefault(r.tensor, set()).add(r.base.coefficient(phase.var))
    written = {r.tensor for i in found for r in i.dst if r.tensor}
    near = [[n for n in steps if _shares(tensors[w], tensors[n])] for w in written]
    uneven = any(len(set().union(*(steps[n] for n in names))) > 1 for names in near)
    if uneven or any(_depends_locally(i, phase.var) for i in found):
        return range(min(machine.cores, phase.extent))
    return range(min(1, phase.extent))


def _shares(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have a byte in common."""
    apart = one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
    return one.blob == other.blob and not apart


def _depends_locally(i: Instruction, var: str) -> bool:
    forms = [r.base for r in (*i.dst, *i.sources) if not r.tensor]
    forms += [r.select for r in (*i.dst, *i.sources)]
    forms += [f for f in (i.init, i.flag[2] if i.flag else None) if f is not None]
    forms += [b.form for b in i.bounds if not i.sources[0].tensor]
    if i.form is not None and i.mnemonic == "vcmoments":
        forms.append(i.form)
    return any(f.coefficient(var) for f in forms)


Taken = tuple[Region, Memory, list[list[int]]]  # an operand and the regions it touches, by execution


class _Core:
    """The proof of one core's program in one phase."""

    def __init__(self, listing: Listing, phase: Phase, core: int, machine: Machine) -> None:
        self.listing, self.machine, self.core = listing, machine, core
        iterations = phase.iterations(core, machine.cores)
        self.plan: Plan = plan(expand(phase, iterations), machine)
        self.iterations = len(iterations)
        self.written = {r.tensor for i, _ in instructions(phase.body) for r in i.dst if r.tensor}
        self.blobs = {listing.tensor(t).blob for t in self.written}
        self.memories: dict[str, Memory] = {}
        self.found: list[Diagnostic] = []
        self.accesses = [self._accesses(s) for s in self.plan.trace.statics]
        self.order = Pass(self.plan, machine, self.accesses)
        self.verdict: Verdict = self.order.run()

    def problems(self) -> list[Diagnostic]:
        """Every problem of this core's program."""
        found = explain.verdict(self.verdict, self.plan, self.listing, self.core, self.machine.event_ids)
        return self.found + found + self._uninitialised()

    def _memory(self, region: Region) -> Memory | None:
        """The memory a region lies in; None for global memory that this phase only reads."""
        if not region.tensor:
            name, size = region.space, self.machine.spaces[region.space].capacity
        else:
            name = self.listing.tensor(region.tensor).blob
            if name not in self.blobs:
                return None
            size = max(t.offset + t.bytes for t in self.listing.tensors if t.blob == name)
        return self.memories.setdefault(name, Memory(name, size))

    def _accesses(self, s: Static) -> list[Access]:
        i = s.instruction
        if i.flag is not None:
            return []
        found: dict[int, Access] = {}
        merges = reads_destination(s) if i.dst else []
        taken: list[Taken] = []
        for region, source in (*((r, True) for r in i.sources), *((r, False) for r in i.dst)):
            memory = self._memory(region)
            if memory is None:
                continue
            regions = self._regions(s, region, source, memory)
            for other in taken if not source else ():
                self._overwrites(s, other, (region, memory, regions))
            taken.append((region, memory, regions))
            reads = regions if source else [r if m else [] for r, m in zip(regions, merges, strict=True)]
            writes: list[list[int]] = [[]] * s.count if source else regions
            old = found.get(id(memory))
            if old is not None:
                reads = [[*a, *b] for a, b in zip(old.reads, reads, strict=True)]
                writes = [[*a, *b] for a, b in zip(old.writes, writes, strict=True)]
            found[id(memory)] = Access(memory, reads, writes)
        return list(found.values())

    def _overwrites(self, s: Static, one: Taken, two: Taken) -> None:
        """Report a result that lands on bytes of another operand, unless both are the same elements."""
        memory = one[1]
        if memory is not two[1]:
            return
        extents = s.instruction.extents
        strides = [[n for n, e in zip(r.strides, extents, strict=True) if e > 1] for r in (one[0], two[0])]
        same = strides[0] == strides[1] and one[0].dtype.bytes == two[0].dtype.bytes
        pairs = {(a[0], b[0]): k for k, (a, b) in enumerate(zip(one[2], two[2], strict=True)) if a and b}
        for (a, b), k in pairs.items():
            in_place = same and memory.regions[a].address == memory.regions[b].address
            if b in memory.adjacent[a] and not in_place:
                where = memory.shared(a, b)
                self.found.append(explain.overwritten(s, k, memory, where, self.listing))
                return

    def _regions(self, s: Static, region: Region, source: bool, memory: Memory) -> list[list[int]]:
        offset = self.listing.tensor(region.tensor).offset if region.tensor else 0
        known: dict[tuple[int, int], list[int]] = {}
        found: list[list[int]] = []
        for k, f in enumerate(footprints(s, region, source)):
            if f is None:
                found.append([])
                continue
            key = (f.address, id(f.runs))
            if key not in known:
                known[key] = self._intern(s, k, Footprint(f.address + offset, f.runs), memory)
            found.append(known[key])
        return found

    def _intern(self, s: Static, k: int, f: Footprint, memory: Memory) -> list[int]:
        if f.low < 0 or f.high > memory.size:
            self.found.append(explain.outside(s, k, memory, (f.low, f.high), self.listing))
            return []
        return [memory.intern(f)]

    def _uninitialised(self) -> list[Diagnostic]:
        """Local bytes that are read, in program order, before this iteration has written them."""
        order = self.plan.trace.order
        length = len(order) // self.iterations if self.iterations else 0
        executions = [0] * len(self.accesses)
        found: dict[tuple[int, str], Diagnostic] = {}
        coverage: dict[int, Coverage] = {}
        ready: set[tuple[int, int]] = set()
        for position, j in enumerate(order):
            if position % length == 0:
                coverage, ready = {}, set()
            k = executions[j]
            executions[j] = k + 1
            for a in self.accesses[j]:
                if a.memory.name in self.blobs:
                    continue
                covered = coverage.setdefault(id(a.memory), Coverage())
                for r in a.reads[k]:
                    if (id(a.memory), r) in ready:
                        continue
                    missing = covered.missing(*a.memory.runs(r))
                    if missing is None:
                        ready.add((id(a.memory), r))
                    elif (j, a.memory.name) not in found:
                        s = self.plan.trace.statics[j]
                        problem = explain.uninitialised(s, k, a.memory, missing, self.listing)
                        found[j, a.memory.name] = problem
                for r in a.writes[k]:
                    if (id(a.memory), r) not in ready:
                        covered.add(*a.memory.runs(r))
                        ready.add((id(a.memory), r))
        return list(found.values())
