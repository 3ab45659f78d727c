"""A compiled kernel: two entries, the sizes of its blobs, and calls by address."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from opc.cpu import emit, features, threads
from opc.cpu.emit import Entry
from opc.cpu.function import Module
from opc.cpu.jit import Code, Target, host_triple
from opc.errors import MachineError, RuntimeCallError, fail
from opc.machine.model import Machine
from opc.program.ir import Buffer, Program

_SIGNATURE = [ctypes.c_void_p] * 4 + [ctypes.c_int, ctypes.c_void_p]


@dataclass(frozen=True, slots=True)
class Unit:
    """LLVM text of a kernel before optimisation, and what a caller must know to call it."""

    name: str
    text: str
    target: Target
    prepare: Entry | None
    run: Entry

    @property
    def packed_size(self) -> int:
        """Bytes that prepare writes and run reads."""
        return max(self.run.layout.packed, self.prepare.layout.packed if self.prepare else 0)

    def workspace_size(self, threads: int) -> int:
        """Bytes of workspace for a call on that many threads (prepare needs no more)."""
        entries = [e for e in (self.prepare, self.run) if e is not None]
        shared = max(e.layout.workspace for e in entries)
        return shared + max(e.layout.scratch * max(1, min(threads, e.width)) for e in entries)


def lower(
    prepare: Program | None,
    run: Program,
    machine: Machine,
    *,
    host_features: bool = False,
    emulate: bool = False,
    triple: str = "",
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
    return Unit(run.name, module.text(), Target(module.triple, wanted), first, second)


class CpuKernel:
    """Executable form of a Unit in this process.

    Pointers are addresses of C-contiguous arrays; the caller owns ``packed`` and ``workspace`` and keeps
    every array alive during the call. Calls release the GIL, and any number may run at once on different
    workspaces.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.name = unit.name
        self._code = Code(unit.text, unit.target)
        kind = ctypes.CFUNCTYPE(None, *_SIGNATURE)
        self._run = kind(self._code.address(unit.run.symbol))
        self._prepare = kind(self._code.address(unit.prepare.symbol)) if unit.prepare else None

    @property
    def run_arguments(self) -> tuple[Buffer, ...]:
        """Buffers that ``run`` wants addresses of, in order."""
        return self.unit.run.arguments

    @property
    def prepare_arguments(self) -> tuple[Buffer, ...]:
        """Buffers that ``prepare`` wants addresses of, in order."""
        return self.unit.prepare.arguments if self.unit.prepare else ()

    @property
    def packed_size(self) -> int:
        return self.unit.packed_size

    def workspace_size(self, nthreads: int = 1) -> int:
        return self.unit.workspace_size(nthreads)

    def prepare(self, pointers: Sequence[int], packed: int, workspace: int = 0, nthreads: int = 1) -> None:
        """Fill ``packed`` from the parameters."""
        if self._prepare is not None and self.unit.prepare is not None:
            self._call(self._prepare, self.unit.prepare, pointers, packed, workspace, nthreads)

    def run(self, pointers: Sequence[int], packed: int, workspace: int = 0, nthreads: int = 1) -> None:
        """Compute the outputs; ``pointers`` are the addresses of ``run_arguments``."""
        self._call(self._run, self.unit.run, pointers, packed, workspace, nthreads)

    def _call(
        self, function: object, entry: Entry, pointers: Sequence[int], packed: int, workspace: int, n: int
    ) -> None:
        if len(pointers) != len(entry.arguments):
            raise fail(
                RuntimeCallError, "E0906", f"{len(pointers)} arrays for {len(entry.arguments)} arguments"
            )
        n = min(n, entry.width)
        runtime = threads.team_runtime() if n > 1 else None
        if runtime is None:
            n = 1
        array = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
        shared = max(
            self.unit.run.layout.workspace, self.unit.prepare.layout.workspace if self.unit.prepare else 0
        )
        assert callable(function)
        function(array, packed, workspace, workspace + shared, n, runtime.address if runtime else None)

    @property
    def llvm_ir(self) -> str:
        """LLVM text after optimisation."""
        return str(self._code.module)

    @property
    def asm(self) -> str:
        """Assembly text."""
        return self._code.assembly()


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
    return CpuKernel(lower(prepare, run, machine, host_features=host_features or emulate, emulate=emulate))
