"""Five ways to lower a kernel, each a choice of passes and of their options, and what the simulator says of them.

Each is measured without and with the numerics licence. With it fused modes fold batch norm into weights and bias;
operators that stay separate may shorten their own formula (``x * A + B``), and nothing crosses from one to another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from opc.numerics import STRICT

if TYPE_CHECKING:
    from benchmarks.problems.npu import NpuProblem
    from opc.build import Build
    from opc.machine.model import Machine
    from opc.pipeline import Pass
    from opc.tensor.ir import Function


@dataclass(frozen=True)
class Mode:
    """How one column of the table is compiled."""

    name: str
    about: str
    options: dict[str, dict[str, Any]]  # pass -> options that differ from their defaults
    left_out: frozenset[str] = frozenset()

    def passes(self, pipeline: str) -> tuple[Pass, ...]:
        """The passes of a named pipeline as this mode wants them."""
        from opc import driver

        found: list[Any] = [p for p in driver.pipeline(pipeline) if p.name not in self.left_out]
        return tuple(replace(p, **self.options.get(p.name, {})) for p in found)


_APART = {"fuse": {"enabled": False}, "fold-affine": {"weights": False}}
_SINGLE = {"multi-buffer": {"max_slots": 1}}
_ORDERING = frozenset({"pipeline", "unroll", "list-schedule"})

MODES = {
    m.name: m
    for m in (
        Mode("a", "separate operators, one buffer each, source order", _APART | _SINGLE, _ORDERING),
        Mode("a2", "separate operators, each multi-buffered and pipelined", _APART),
        Mode("b", "fused, one buffer each, source order", _SINGLE, _ORDERING),
        Mode("c", "fused, multi-buffered, source order", {}, _ORDERING),
        Mode("d", "fused, multi-buffered, reordered", {}),
    )
}


@dataclass(frozen=True)
class Measured:
    """Simulated cycles of the busiest core, and how long each pipe was busy."""

    cycles: float
    busy: dict[str, float]
    instructions: int


def specialised(problem: NpuProblem, machine: Machine) -> Function:
    """The kernel at its sizes: f16, channels last."""
    from opc import driver

    return driver.specialise(problem.source, f"{problem.name}.k", machine, None, problem.sizes, "f16", "nhwc")


def built(function: Function, machine: Machine, mode: Mode, numerics: str = STRICT) -> Build:
    """The kernel lowered by a mode's passes. Raises OpcError where the machine cannot hold it."""
    from opc.build import Build, run_passes

    lowered, first = run_passes(function, mode.passes("tensor"), machine, numerics=numerics)
    tiled, second = run_passes(lowered, mode.passes("lowering"), machine, numerics=numerics)
    module, third = run_passes(tiled, mode.passes("program"), machine, numerics=numerics)
    return Build(machine, function, lowered, tiled, module, (*first, *second, *third), numerics)


def measure(function: Function, machine: Machine, mode: Mode, numerics: str = STRICT) -> Measured:
    """Compile, prove and simulate. Raises OpcError where that is impossible, or a listing is not safe."""
    from opc.npu_kernel import NpuKernel

    kernel = NpuKernel(built(function, machine, mode, numerics))
    _ = kernel.proofs
    timeline = kernel.timeline
    return Measured(timeline.cycles, dict(timeline.busy), timeline.instructions)
