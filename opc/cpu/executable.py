"""What it takes to call compiled code: the code itself, and for each entry its arguments and blob sizes.

A plain record, so that the cache can keep it and a later process can call it without any part of the compiler.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from opc.cpu import threads
from opc.cpu.image import Image, Loaded
from opc.errors import RuntimeCallError, fail

if TYPE_CHECKING:
    from opc.cpu.kernel import Unit
    from opc.program.ir import Buffer

_SIGNATURE = [ctypes.c_void_p] * 4 + [ctypes.c_int, ctypes.c_void_p]


class EntryPoint(NamedTuple):
    """One of the two functions of a kernel, and the memory that it wants."""

    symbol: str
    arguments: tuple[str, ...]
    workspace: int
    scratch: int  # per thread
    width: int  # most iterations of any phase: more threads than that are of no use


class Executable(NamedTuple):
    """Machine code of a kernel; ``code`` is an object where no image could be linked."""

    name: str
    code: Image | bytes
    packed_size: int
    run: EntryPoint
    prepare: EntryPoint | None
    packed_lender: str = ""  # result whose memory can hold packed parameters until it is written
    workspace_lender: str = ""  # likewise workspace that threads share

    def workspace_size(self, threads: int) -> int:
        """Bytes of workspace for a call on that many threads (prepare needs no more)."""
        entries = [e for e in (self.prepare, self.run) if e is not None]
        return self.shared + max(e.scratch * max(1, min(threads, e.width)) for e in entries)

    def own_memory(self, threads: int) -> int:
        """Bytes that a call which packs anew holds beside its arguments and results."""
        workspace = self.workspace_size(threads) - (self.shared if self.workspace_lender else 0)
        return workspace + (0 if self.packed_lender else self.packed_size)

    def __bytes__(self) -> bytes:
        """The code alone."""
        return self.code.code if isinstance(self.code, Image) else self.code

    @property
    def shared(self) -> int:
        """Bytes of workspace before the threads' own."""
        return max(self.run.workspace, self.prepare.workspace if self.prepare else 0)


class _Code(Protocol):
    def address(self, symbol: str) -> int: ...


def load(code: Image | bytes) -> _Code:
    """Put code in this process."""
    if isinstance(code, Image):
        return Loaded(code)
    from opc.cpu.jit import Engine

    return Engine(code)


class CpuKernel:
    """An executable in this process.

    Pointers are addresses of C-contiguous arrays; the caller owns ``packed`` and ``workspace`` and keeps
    every array alive during the call. Calls release the GIL, and any number may run at once on different
    workspaces. ``unit`` makes the LLVM text that the code came from, for who wants to look at it.
    """

    def __init__(self, executable: Executable, unit: Callable[[], Unit]) -> None:
        self.executable, self.name = executable, executable.name
        self._make_unit = unit
        self._code = load(executable.code)
        kind = ctypes.CFUNCTYPE(None, *_SIGNATURE)
        self._run = kind(self._code.address(executable.run.symbol))
        first = executable.prepare
        self._prepare = kind(self._code.address(first.symbol)) if first else None

    @property
    def packed_size(self) -> int:
        return self.executable.packed_size

    def workspace_size(self, nthreads: int = 1) -> int:
        return self.executable.workspace_size(nthreads)

    def prepare(
        self, pointers: Sequence[int], packed: int, workspace: int = 0, nthreads: int = 1, lent: int = 0
    ) -> None:
        """Fill ``packed`` from the parameters. ``lent`` is where workspace lies that threads share, if it does not lie
        before the threads' own.
        """
        if self._prepare is not None and self.executable.prepare is not None:
            self._call(self._prepare, self.executable.prepare, pointers, packed, workspace, nthreads, lent)

    def run(
        self, pointers: Sequence[int], packed: int, workspace: int = 0, nthreads: int = 1, lent: int = 0
    ) -> None:
        """Compute the outputs; ``pointers`` are the addresses of the arguments of ``run``."""
        self._call(self._run, self.executable.run, pointers, packed, workspace, nthreads, lent)

    def _call(
        self,
        function: object,
        entry: EntryPoint,
        pointers: Sequence[int],
        packed: int,
        workspace: int,
        n: int,
        lent: int,
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
        assert callable(function)
        scratch = workspace if lent else workspace + self.executable.shared
        function(array, packed, lent or workspace, scratch, n, runtime.address if runtime else None)

    @cached_property
    def unit(self) -> Unit:
        """LLVM text before optimisation."""
        return self._make_unit()

    @property
    def run_arguments(self) -> tuple[Buffer, ...]:
        """Buffers that ``run`` wants addresses of, in order."""
        return self.unit.run.arguments

    @property
    def prepare_arguments(self) -> tuple[Buffer, ...]:
        """Buffers that ``prepare`` wants addresses of, in order."""
        return self.unit.prepare.arguments if self.unit.prepare else ()

    @property
    def llvm_ir(self) -> str:
        """LLVM text after optimisation."""
        from opc.cpu.jit import optimised_text

        return optimised_text(self.unit.text, self.unit.target)

    @property
    def asm(self) -> str:
        """Assembly text."""
        from opc.cpu.jit import assembly

        return assembly(self.unit.text, self.unit.target)
