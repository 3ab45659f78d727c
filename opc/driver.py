"""Text → IR → pipelines → back end: the way of a program, and the only module that imports ``passes``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from opc import machine as machines
from opc.build import After, Build, run_passes
from opc.dtypes import DType
from opc.errors import MachineError, RuntimeCallError, fail
from opc.machine.model import Machine
from opc.pipeline import Pass
from opc.tensor.ir import Function

if TYPE_CHECKING:
    from opc.kernel import Kernel

NPU = "ascend910"


def target_machine(target: str, name: str | None = None) -> Machine:
    """The machine for ``target`` ("cpu" or "npu"): ``name`` if given, the host's CPU, or the shipped NPU."""
    if name is not None:
        return machines.load(name)
    if target == "npu":
        return machines.load(NPU)
    from opc.cpu import host_machine

    return machines.load(os.environ.get("OPC_MACHINE") or host_machine())


def specialise(
    text: str | bytes,
    file: str,
    machine: Machine,
    kernel: str | None = None,
    sizes: Mapping[str, int | float] | None = None,
    dtype: str | None = None,
    layout: str | None = None,
) -> Function:
    """A kernel of the source as tensor IR, with its sizes, dtype and memory order fixed.

    Raises LanguageError for bad text or sizes, MachineError E0604 for a dtype the machine lacks.
    """
    from opc.lang import lower

    chosen = element_type(dtype) if dtype else machine.default_dtype
    return lower(text, file, kernel, dict(sizes or {}), chosen, layout)


def element_type(name: str) -> DType:
    """The dtype of that name. Raises RuntimeCallError E0925."""
    try:
        return DType(name)
    except ValueError:
        known = ", ".join(DType)
        raise fail(RuntimeCallError, "E0925", f"unknown dtype '{name}'", help=f"dtypes: {known}") from None


def pipeline(name: str) -> tuple[Pass, ...]:
    """The passes of one named pipeline, with their default options."""
    from passes import PIPELINES, load

    return tuple(load(step)() for step in PIPELINES[name])


def pass_table() -> dict[str, type]:
    """The class of every pass by its name."""
    from passes import PASSES, load

    return {name: load(name) for name in PASSES}


def build(
    function: Function,
    machine: Machine,
    schedule: str = "program",
    after: After | None = None,
    dump: Path | None = None,
) -> Build:
    """Run all pipelines on a specialised function; ``schedule`` names the program pipeline."""
    lowered, steps = run_passes(function, pipeline("tensor"), machine, after, dump)
    module, more = run_passes(lowered, (*pipeline("lowering"), *pipeline(schedule)), machine, after, dump)
    return Build(machine, function, lowered, module, (*steps, *more))
