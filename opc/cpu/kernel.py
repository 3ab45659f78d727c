"""From a pair of programs to code: LLVM text for both entries, and the executable made of it."""

from __future__ import annotations

from dataclasses import dataclass

from opc.cpu import emit, features, jit
from opc.cpu.emit import Entry
from opc.cpu.executable import CpuKernel, EntryPoint, Executable, Lender
from opc.cpu.function import Module
from opc.cpu.image import Image, Loaded
from opc.cpu.jit import Target, host_triple
from opc.cpu.link import UnlinkableError, link
from opc.errors import MachineError, RuntimeCallError, fail
from opc.machine.model import Machine
from opc.program.ir import Program
from opc.tensor.saved import Half


@dataclass(frozen=True, slots=True)
class Unit:
    """LLVM text of a kernel before optimisation, and what a caller must know to call it."""

    name: str
    text: str
    target: Target
    prepare: Entry | None
    run: Entry
    half: Half | None = None  # which kernel of a pair it is
    lender: str = ""  # of packed parameters

    @property
    def packed_size(self) -> int:
        """Bytes that prepare writes and run reads."""
        return self.described(b"").packed_size

    def workspace_size(self, threads: int) -> int:
        """Bytes of workspace for a call on that many threads (prepare needs no more)."""
        return self.described(b"").workspace_size(threads)

    def described(self, code: Image | bytes) -> Executable:
        """``code``, which was made of this unit, with what its callers must know."""
        run, prepare = point(self.run), point(self.prepare) if self.prepare else None
        packed = max(e.layout.packed for e in (self.run, self.prepare) if e is not None)
        return Executable(self.name, code, packed, run, prepare, self.lender)


def point(entry: Entry) -> EntryPoint:
    """What callers must know of an entry."""
    names = tuple(b.name for b in entry.arguments)
    sizes = dict(entry.layout.arenas)
    lenders = tuple(Lender(b.name, sizes.get(b.name, 0), b.slot_bytes) for b in entry.lenders)
    return EntryPoint(entry.symbol, names, entry.layout.workspace, entry.width, lenders, entry.phases)


def lower(
    prepare: Program | None,
    run: Program,
    machine: Machine,
    *,
    host_features: bool = False,
    emulate: bool = False,
    triple: str = "",
    half: Half | None = None,
) -> Unit:
    """LLVM text for a pair of programs.

    ``host_features`` keeps the machine's vector width but uses only what this host has, so that code for
    wider machines can be executed here. ``emulate`` replaces tile instructions by functions that compute
    the same. ``triple`` names another processor to emit for.
    """
    if machine.kind != "cpu":
        raise fail(
            MachineError, "E0951", f"machine '{machine.name}' is not a CPU", help="emit its listing instead"
        )
    wanted = frozenset(machine.features)
    if wanted and triple and not triple.startswith("x86_64"):
        message = f"machine '{machine.name}' has features of x86-64 processors, the triple is '{triple}'"
        raise fail(MachineError, "E0955", message, help="use --machine portable")
    if host_features:
        wanted &= features.host_features()
    module = Module(triple or host_triple(), machine.vector_bytes, wanted)
    module.emulate = emulate
    first = None
    if prepare is not None and prepare.body:
        first = emit.emit(module, prepare, machine, f"opc_{run.name}_prepare.entry")
    second = emit.emit(module, run, machine, f"opc_{run.name}_run.entry")
    width = machine.vector_bytes * 8
    module.attributes = f'nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
    lender = next((b.lender for b in run.buffers if b.kind == "packed"), "")
    target = Target(module.triple, wanted)
    return Unit(run.name, module.text(), target, first, second, half, lender)


def executable(unit: Unit) -> Executable:
    """Machine code of a unit for this process, linked where opc's own linker can."""
    data = jit.object_code(unit.text, unit.target)
    try:
        image = link(data)
        Loaded(image)  # every C function that it calls is there
    except (UnlinkableError, AttributeError):
        return unit.described(data)
    return unit.described(image)


def compile_kernel(
    prepare: Program | None,
    run: Program,
    machine: Machine,
    *,
    host_features: bool = False,
    emulate: bool = False,
) -> CpuKernel:
    """Compile a pair of programs for this process. Raises RuntimeCallError (E0952) if this host lacks a
    feature.
    """
    if not host_features and not emulate:
        lacking = features.missing(machine)
        if lacking:
            raise fail(
                RuntimeCallError,
                "E0952",
                f"this computer cannot run code for machine '{machine.name}': it lacks {', '.join(lacking)}",
                help=f"use --machine {features.pick_machine()}, or emit an object for another computer",
            )
    unit = lower(prepare, run, machine, host_features=host_features or emulate, emulate=emulate)
    return CpuKernel(executable(unit), lambda: unit)
