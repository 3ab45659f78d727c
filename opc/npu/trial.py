"""One core's program in one phase, its synchronisation changed at will: does some timing change what it computes?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opc.errors import ListingError
from opc.machine import Machine
from opc.npu.adversarial import steps
from opc.npu.bytesets import conflicts, touched
from opc.npu.engine import WORK, Plan, plan
from opc.npu.expand import expand
from opc.npu.functional import Core, GlobalMemory
from opc.npu.listing import Listing, Phase
from opc.npu.timings import times

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

TRIES = 12  # orders to execute of those that turn conflicting instructions round


@dataclass(frozen=True, slots=True)
class Outcome:
    """``broken``: "deadlock", "flag", "result" or "". ``turned``: timings that turned a conflicting pair round."""

    broken: str
    turned: int = 0


class Trial:
    """Everything that does not depend on flags and barriers, computed once."""

    def __init__(self, listing: Listing, number: int, arrays: Mapping[str, Array], machine: Machine) -> None:
        import numpy as np

        self.machine = machine
        self.memory = GlobalMemory(listing, arrays)
        with np.errstate(all="ignore"):
            for phase in listing.phases[:number]:
                for core in range(min(machine.cores, phase.extent)):
                    trace = expand(phase, phase.iterations(core, machine.cores))
                    Core(trace, self.memory, machine).run(trace.order)
        whole = self._plan(listing.phases[number])
        self.core = Core(whole.trace, self.memory, machine)
        self.steps = steps(whole)
        pairs = np.array(conflicts(touched(whole, listing)), int).reshape(-1, 2)
        self.first, self.then = pairs[:, 0], pairs[:, 1]
        self.start = {name: blob.copy() for name, blob in self.memory.blobs.items()}
        self.expected = self._results(range(len(self.steps)))

    def outcome(self, phase: Phase, columns: int, seed: int) -> Outcome:
        """What ``columns`` random timings do to the phase, whose work is that of the trial's."""
        import numpy as np

        p = self._plan(phase)
        try:
            played = times(p, self.machine, columns, seed)
        except ListingError:
            return Outcome("deadlock")
        if played.left or played.lost.any():
            return Outcome("flag")
        work = [n for n, j in enumerate(p.trace.order) if p.kinds[j] == WORK]
        complete = played.complete[work]
        turned = np.flatnonzero((complete[self.first] > complete[self.then]).any(axis=0))
        orders = {tuple(np.argsort(complete[:, c], kind="stable").tolist()) for c in turned[:TRIES]}
        wrong = any(self._results(order) != self.expected for order in sorted(orders))
        return Outcome("result" if wrong else "", len(turned))

    def _plan(self, phase: Phase) -> Plan:
        return plan(expand(phase, phase.iterations(0, self.machine.cores)), self.machine)

    def _results(self, order: range | tuple[int, ...]) -> list[bytes]:
        """The bytes of global memory after the work in this order."""
        import numpy as np

        from opc.npu.functional import POISON

        for name, blob in self.memory.blobs.items():
            blob[...] = self.start[name]
        for local in self.core.local.values():
            local[...] = POISON
        with np.errstate(all="ignore"):
            for n in order:
                j, k = self.steps[n]
                self.core.actions[j](k)
        return [blob.tobytes() for blob in self.memory.blobs.values()]
