"""Simulated cycles of a training block's backward kernel on the NPU."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from benchmarks.case import Case
from benchmarks.npu_modes import MODES, measure
from benchmarks.problems.npu import BATCH
from benchmarks.problems.train import WRT, problem
from benchmarks.results import Results
from opc.numerics import FAST, NUMERICS, STRICT

if TYPE_CHECKING:
    from opc.machine.model import Machine
    from opc.tensor.ir import Function

MACHINE = "ascend910"
_MODES = ("a", "a2", "c", "d")
_MARKS = {STRICT: "", FAST: "+"}


def simulate(name: str, results: Results) -> None:
    """Compile, prove and simulate a block in every mode, without and (marked +) with the numerics licence; a mode that
    fails is a failure of the run.
    """
    from opc import machine as machines
    from opc.errors import OpcError

    machine = machines.load(MACHINE)
    cycles = results.simulated.setdefault(name, {})
    for numerics, mode in product(NUMERICS, _MODES):
        column = mode + _MARKS[numerics]
        try:
            cycles[column] = measure(backward(name, machine), machine, MODES[mode], numerics).cycles
        except OpcError as problem_met:
            results.failures.append(f"NPU: {name} ({column}): {problem_met}")


def backward(name: str, machine: Machine, batch: int = BATCH) -> Function:
    """The gradients of a block in f16, channels last."""
    from opc import driver
    from passes.tensor.differentiate import differentiate

    what = problem(Case("train", name, "f16", batch, 1))
    forward = driver.specialise(what.source, f"{name}.k", machine, None, what.sizes, "f16", what.layout)
    return differentiate(forward, WRT).backward
