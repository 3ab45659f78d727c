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


class Need(NamedTuple):
    """Scratch of a phase: so many bytes for each of at most ``extent`` threads, which may lie behind byte ``start``
    of a lender's memory.
    """

    extent: int
    scratch: int
    lender: int = -1
    start: int = 0


class Lender(NamedTuple):
    """A result of ``size`` bytes that lends memory until it is written, ``workspace`` bytes of it to workspace."""

    name: str
    workspace: int
    size: int


class EntryPoint(NamedTuple):
    """One of the two functions of a kernel, and the memory that it wants."""

    symbol: str
    arguments: tuple[str, ...]
    workspace: int
    width: int  # most iterations of any phase: more threads than that are of no use
    lenders: tuple[Lender, ...] = ()
    phases: tuple[Need, ...] = ()

    def shared(self, lent: bool) -> int:
        """Bytes of the caller's workspace before the threads' own, if results do lend memory and if they do not."""
        return self.workspace + (0 if lent else sum(lender.workspace for lender in self.lenders))

    def scratch(self, threads: int, lent: bool) -> int:
        """Bytes of the caller's workspace that are the threads' own."""
        return max((self._scratch(need, threads, lent) for need in self.phases), default=0)

    def _scratch(self, need: Need, threads: int, lent: bool) -> int:
        size = need.scratch * max(1, min(threads, need.extent))
        fits = lent and need.lender >= 0 and need.start + size <= self.lenders[need.lender].size
        return 0 if fits else size

    def places(self, workspace: int, lent: Sequence[int]) -> tuple[int, ...]:
        """What follows the arguments, and where scratch begins. ``lent`` are the lenders' addresses, if they lend."""
        begin = workspace + self.workspace
        if lent:
            return (*lent, *(lender.size for lender in self.lenders), begin)
        found = []
        for lender in self.lenders:
            found.append(begin)
            begin += lender.workspace
        return (*found, *(0 for _ in self.lenders), begin)


class Executable(NamedTuple):
    """Machine code of a kernel; ``code`` is an object where no image could be linked."""

    name: str
    code: Image | bytes
    packed_size: int
    run: EntryPoint
    prepare: EntryPoint | None
    packed_lender: str = ""  # result whose memory can hold packed parameters until it is written

    def workspace_size(self, threads: int, lent: bool = False) -> int:
        """Bytes of workspace for a call on that many threads (prepare needs no more), if results do not lend any."""
        entries = [e for e in (self.prepare, self.run) if e is not None]
        return max(e.shared(lent) + e.scratch(threads, lent) for e in entries)

    def own_memory(self, threads: int) -> int:
        """Bytes that a call which packs anew holds beside its arguments and results."""
        return self.workspace_size(threads, lent=True) + (0 if self.packed_lender else self.packed_size)

    def __bytes__(self) -> bytes:
        """The code alone."""
        return self.code.code if isinstance(self.code, Image) else self.code


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

    def prepare(self, pointers: Sequence[int], packed: int, workspace: int = 0, nthreads: int = 1) -> None:
        """Fill ``packed`` from the parameters."""
        if self._prepare is not None and self.executable.prepare is not None:
            self._call(self._prepare, self.executable.prepare, pointers, packed, workspace, nthreads, ())

    def run(
        self,
        pointers: Sequence[int],
        packed: int,
        workspace: int = 0,
        nthreads: int = 1,
        lent: Sequence[int] = (),
    ) -> None:
        """Compute the outputs; ``pointers`` are the addresses of the arguments of ``run``, ``lent`` those of its
        lenders, each at a cache line, if they lend their memory.
        """
        self._call(self._run, self.executable.run, pointers, packed, workspace, nthreads, lent)

    def _call(
        self,
        function: object,
        entry: EntryPoint,
        pointers: Sequence[int],
        packed: int,
        workspace: int,
        n: int,
        lent: Sequence[int],
    ) -> None:
        if len(pointers) != len(entry.arguments):
            raise fail(
                RuntimeCallError, "E0906", f"{len(pointers)} arrays for {len(entry.arguments)} arguments"
            )
        n = min(n, entry.width)
        runtime = threads.team_runtime() if n > 1 else None
        if runtime is None:
            n = 1
        *places, scratch = entry.places(workspace, lent)
        array = (ctypes.c_void_p * (len(pointers) + len(places) + 1))(*pointers, *places)
        assert callable(function)
        function(array, packed, workspace, scratch, n, runtime.address if runtime else None)

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
