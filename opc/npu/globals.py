"""Global memory across the cores of a phase: conflicting bytes, uninitialised reads, bounds."""

from __future__ import annotations

from collections.abc import Iterator

from opc.affine import Affine
from opc.errors import Diagnostic
from opc.machine.model import Machine
from opc.npu.access import footprints, reads_destination
from opc.npu.expand import Static, expand, statics
from opc.npu.explain import short, span
from opc.npu.listing import Instruction, Listing, Loop, Phase, Region, Tensor, instructions
from opc.program.intervals import Coverage, Footprint, Runs, box_runs

Touch = tuple[int, int, int, bool, int]  # first byte, byte after the last, core, writes, static number


class GlobalCheck:
    """Phases are handed in in order; what earlier phases wrote is initialised for later ones."""

    def __init__(self, listing: Listing, machine: Machine) -> None:
        self.listing, self.machine = listing, machine
        self.tensors = {t.name: t for t in listing.tensors}
        written = {r.tensor for p in listing.phases for i, _ in instructions(p.body) for r in i.dst}
        self.fresh = {
            t.name
            for t in listing.tensors
            if t.kind in ("output", "workspace") or (t.kind == "packed" and t.name in written)
        }
        self.covered: dict[str, Coverage] = {}
        read = {r.tensor for p in listing.phases for i, _ in instructions(p.body) for r in i.sources}
        # Coverage is only needed where something that starts uninitialised is read back.
        self.tracked = {self.tensors[t].blob for t in read & self.fresh}

    def phase(self, phase: Phase) -> list[Diagnostic]:
        """Problems of one phase."""
        problems = self._bounds(phase)
        if problems:
            return problems
        problems = self._conflicts(phase)
        return problems or self._uninitialised(phase)

    def _bounds(self, phase: Phase) -> list[Diagnostic]:
        found = []
        for number, (i, loops) in enumerate(instructions(phase.body)):
            for region, source in _regions(i):
                if region.tensor and not self._inside(phase, loops, i, region, source):
                    problem = self._exactly(statics(phase, range(phase.extent))[number], region, source)
                    if problem is not None:
                        found.append(problem)
        return found

    def _inside(self, phase: Phase, loops: tuple[Loop, ...], i: Instruction, r: Region, source: bool) -> bool:
        """Interval proof that the region stays in its tensor on every core."""
        tensor = self.tensors[r.tensor]
        extents = {phase.var: phase.extent} | {loop.var: loop.extent for loop in loops}
        names = {n: f".{n}" for n, _ in i.dims}  # dims may shadow loop variables
        extents |= {f".{n}": e for n, e in i.dims}
        address = r.base + Affine.of({names[n]: s for (n, _), s in zip(i.dims, r.strides, strict=True)})
        low = high = 0
        for bound in i.bounds if source else ():
            form = bound.form.substitute({n: Affine.var(v) for n, v in names.items()})
            pitch, rest = _factor(address, form, tensor, bound.extent, extents)
            address = rest
            low += min(0, pitch * (bound.extent - 1))
            high += max(0, pitch * (bound.extent - 1))
        least, most = address.interval(extents)
        table = r.table or (0,)
        return least + low + min(table) >= 0 and most + high + max(table) + r.dtype.bytes <= tensor.bytes

    def _exactly(self, s: Static, region: Region, source: bool) -> Diagnostic | None:
        tensor = self.tensors[region.tensor]
        for k, f in enumerate(footprints(s, region, source)):
            if f is not None and (f.low < 0 or f.high > tensor.bytes):
                env = ", ".join(f"{v}={n}" for v, n in s.environment(k).items())
                message = (
                    f"{short(s.instruction)} accesses "
                    f"{tensor.name} bytes {f.low}..{f.high - 1} at {env}, but {tensor.name} has "
                    f"{tensor.bytes} bytes"
                )
                return Diagnostic("E0816", message, span(self.listing, s.instruction))
        return None

    def _conflicts(self, phase: Phase) -> list[Diagnostic]:
        """Bytes that one core writes and another touches."""
        cores = min(phase.extent, self.machine.cores)
        blobs = {self.tensors[r.tensor].blob for i, _ in instructions(phase.body) for r in i.dst if r.tensor}
        if cores < 2 or not blobs or self._apart(phase, blobs):
            return []
        for blob in sorted(blobs):
            clash = _clash(sorted(self._touches(phase, cores, blob)))
            if clash is not None:
                return [self._clash_problem(phase, blob, *clash)]
        return []

    def _apart(self, phase: Phase, blobs: set[str]) -> bool:
        """Whether each iteration of the cores touches its own range of every written blob."""
        for blob in sorted(blobs):
            low: list[Affine] = []
            spans: list[tuple[int, int]] = []
            for i, loops in instructions(phase.body):
                extents = {loop.var: loop.extent for loop in loops}
                for region, _ in _regions(i):
                    if not region.tensor or self.tensors[region.tensor].blob != blob:
                        continue
                    inner, outer = region.base.split(extents)
                    first, last = inner.interval(extents)
                    runs = box_runs(i.extents, region.strides, region.dtype.bytes)
                    at = self.tensors[region.tensor].offset
                    low.append(outer)
                    spans.append(
                        (first + runs[0][0] + outer.const + at, last + runs[-1][1] + outer.const + at)
                    )
            steps = {form.coefficient(phase.var) for form in low}
            width = max(high for _, high in spans) - min(least for least, _ in spans)
            if len(steps) != 1 or abs(steps.pop()) < width:
                return False
        return True

    def _touches(self, phase: Phase, cores: int, blob: str) -> Iterator[Touch]:
        for s in statics(phase, range(phase.extent)):
            each = s.count // phase.extent
            for region, source in _regions(s.instruction):
                if not region.tensor or self.tensors[region.tensor].blob != blob:
                    continue
                covered = [Coverage() for _ in range(cores)]
                offset = self.tensors[region.tensor].offset
                for k, f in enumerate(footprints(s, region, source)):
                    if f is not None:
                        covered[k // each % cores].add(f.runs, f.address + offset)
                for core, touched in enumerate(covered):
                    for low, high in touched.runs():
                        yield low, high, core, not source, s.number

    def _clash_problem(self, phase: Phase, blob: str, one: Touch, two: Touch) -> Diagnostic:
        body = [i for i, _ in instructions(phase.body)]
        first, second = body[one[4]], body[two[4]]
        low, high = max(one[0], two[0]), min(one[1], two[1])
        verbs = ["writes" if t[3] else "reads" for t in (one, two)]
        message = (
            f"core {two[2]} {verbs[1]} {blob} bytes {low}..{high - 1} "
            f"in {short(second)} while "
            f"core {one[2]} {verbs[0]} them in {short(first)}"
        )
        help = "cores of one phase must not share written bytes; a grid barrier separates phases"
        return Diagnostic("E0818", message, span(self.listing, second), help=help)

    def _uninitialised(self, phase: Phase) -> list[Diagnostic]:
        """Reads of outputs and workspaces that neither an earlier phase nor this core has written."""
        found: list[Diagnostic] = []
        after: list[tuple[str, Runs]] = []
        if not self.tracked:
            return found
        for core in range(min(phase.extent, self.machine.cores)):
            own = {blob: Coverage() for blob in self.tracked}
            for blob, covered in self.covered.items():
                own[blob].add(covered.runs())
            found += self._core(phase, core, own)
            after += [(blob, covered.runs()) for blob, covered in own.items()]
        for blob, runs in after:
            self.covered.setdefault(blob, Coverage()).add(runs)
        return found[:1]

    def _core(self, phase: Phase, core: int, own: dict[str, Coverage]) -> list[Diagnostic]:
        trace = expand(phase, phase.iterations(core, self.machine.cores))
        touching = {s.number: self._tracked(s) for s in trace.statics}
        executions = [0] * len(trace.statics)
        for j in trace.order:
            k = executions[j]
            executions[j] = k + 1
            for tensor, source, prints, merges in touching[j]:
                f = prints[k]
                if f is None:
                    continue
                if (source or merges[k]) and tensor.name in self.fresh:
                    missing = own[tensor.blob].missing(f.runs, f.address + tensor.offset)
                    if missing is not None:
                        i = trace.statics[j].instruction
                        low, high = missing[0] - tensor.offset, missing[1] - tensor.offset
                        message = (
                            f"{short(i)} on core {core} reads {tensor.name} "
                            f"bytes {low}..{high - 1}, which nothing has written"
                        )
                        return [Diagnostic("E0815", message, span(self.listing, i))]
                if not source:
                    own[tensor.blob].add(f.runs, f.address + tensor.offset)
        return []

    def _tracked(self, s: Static) -> list[tuple[Tensor, bool, list[Footprint | None], list[bool]]]:
        found = []
        for region, source in _regions(s.instruction):
            tensor = self.tensors.get(region.tensor)
            if tensor is not None and tensor.blob in self.tracked:
                merges = [False] * s.count if source else reads_destination(s)
                found.append((tensor, source, footprints(s, region, source), merges))
        return found


def _regions(i: Instruction) -> Iterator[tuple[Region, bool]]:
    """Operands, and whether each is read."""
    yield from ((r, True) for r in i.sources)
    yield from ((r, False) for r in i.dst)


def _factor(
    address: Affine, form: Affine, tensor: Tensor, extent: int, extents: dict[str, int]
) -> tuple[int, Affine]:
    """A pitch p and rest with address = p*form + rest, the rest's range as small as any axis makes it.

    Every pitch is sound, because the bound holds wherever the element is read.
    """
    best = (0, address)
    width = _width(address, extents)
    pitch = tensor.dtype.bytes
    for axis in reversed(tensor.shape):
        rest = address - form * pitch
        if axis == extent and _width(rest, extents) + pitch * (extent - 1) < width:
            best, width = (pitch, rest), _width(rest, extents) + pitch * (extent - 1)
        pitch *= axis
    return best


def _width(form: Affine, extents: dict[str, int]) -> int:
    low, high = form.interval(extents)
    return high - low


def _clash(touches: list[Touch]) -> tuple[Touch, Touch] | None:
    """The first two overlapping touches of different cores of which one writes."""
    active: list[Touch] = []
    for t in touches:
        active = [a for a in active if a[1] > t[0]]
        for a in active:
            if a[2] != t[2] and (a[3] or t[3]):
                return a, t
        active.append(t)
    return None
