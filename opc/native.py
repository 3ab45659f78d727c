"""A kernel on this CPU: named arrays to addresses, packed parameters and workspace."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opc.arrays import LINE, Array, address, aligned
from opc.cpu.executable import CpuKernel


class NativeKernel:
    """Machine code of a kernel; safe to call from several threads at once."""

    def __init__(self, code: CpuKernel) -> None:
        self.code = code
        prepare, run = code.executable.prepare, code.executable.run
        self._prepare_names = prepare.arguments if prepare else ()
        self._run_names = run.arguments
        self._own = threading.local()

    @property
    def late_params(self) -> frozenset[str]:
        """Names of the arguments that ``run`` reads or writes itself, packed or not."""
        return frozenset(self._run_names)

    def prepare(self, arrays: Mapping[str, Array], threads: int, packed: Array | None = None) -> Array:
        """Pack the parameters into ``packed``, or into a fresh blob."""
        blob = packed if packed is not None else aligned(max(1, self.code.packed_size))
        if self._prepare_names:
            pointers = [address(arrays[n]) for n in self._prepare_names]
            place = self._workspace(threads, bool(self._lenders(arrays)))
            self.code.prepare(pointers, address(blob), place, threads)
        return blob

    def run(self, arrays: Mapping[str, Array], packed: Array, threads: int) -> None:
        """Compute the results; ``arrays`` holds every argument and result that run names."""
        pointers = [address(arrays[n]) for n in self._run_names]
        lent = self._lenders(arrays)
        self.code.run(pointers, address(packed), self._workspace(threads, bool(lent)), threads, lent)

    def scratch_packed(self, arrays: Mapping[str, Array]) -> Array:
        """A blob for a call that packs anew: memory of a result that is written late, or this thread's own."""
        lent = self._lent(arrays, self.code.executable.packed_lender)
        if lent is not None:
            return lent
        blob: Array | None = getattr(self._own, "packed", None)
        if blob is None:
            blob = self._own.packed = aligned(max(1, self.code.packed_size))
        return blob

    def _lenders(self, arrays: Mapping[str, Array]) -> tuple[int, ...]:
        """Addresses of the results that lend memory to workspace; none, if one of them does not."""
        found = [self._lent(arrays, lender.name) for lender in self.code.executable.run.lenders]
        return tuple(address(a) for a in found if a is not None) if all(a is not None for a in found) else ()

    @staticmethod
    def _lent(arrays: Mapping[str, Array], lender: str) -> Array | None:
        """The result that lends its memory, if it is given and begins at a cache line."""
        found = arrays.get(lender)
        return found if found is not None and address(found) % LINE == 0 else None

    def _workspace(self, threads: int, lent: bool) -> int:
        """Address of this thread's workspace, without what results lend."""
        own = self._own
        if getattr(own, "wanted", None) != (threads, lent):
            own.workspace = aligned(max(1, self.code.executable.workspace_size(threads, lent)))
            own.wanted, own.address = (threads, lent), address(own.workspace)
        found: int = own.address
        return found
