"""Artefacts of ``opc compile``: collected first, then each written whole."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opc import driver
from opc.build import Build, text_of
from opc.files import write_atomic
from opc.lang import File, dump_ast
from opc.report.tables import duration

EMITS = ("ast", "tensor", "program", "llvm", "asm", "obj", "so", "header")


class Artefacts:
    """Files of one kernel's folder, by name; nothing is written before everything is made."""

    def __init__(self, folder: Path, wanted: tuple[str, ...]) -> None:
        self.folder, self.wanted = folder, wanted
        self._data: dict[str, str | bytes] = {}

    def add(self, name: str, data: str | bytes) -> None:
        """Keep ``data`` for the file ``name``."""
        self._data[name] = data

    def common(self, built: Build, file: File) -> None:
        """What both targets can emit: syntax tree, tensor IR, program IR."""
        name = built.source.name
        if "ast" in self.wanted:
            self.add(f"{name}.ast", dump_ast(file))
        if "tensor" in self.wanted:
            self.add(f"{name}.{built.machine.name}.tensor", text_of(built.function))
        if "program" in self.wanted:
            self.add(f"{name}.{built.machine.name}.program", text_of(built.module))

    def write(self) -> list[str]:
        """Write every file; their paths."""
        return [str(write_atomic(self.folder / name, data)) for name, data in self._data.items()]


def emit_npu(built: Build, artefacts: Artefacts) -> tuple[dict[str, Any], str]:
    """Listing and trace; figures, and the report's text."""
    from opc.report.schedule_text import shortages
    from opc.report.timeline_text import cycles_line, pipes_table
    from opc.report.trace import chrome_trace

    kernel = driver.npu_kernel(built)
    proofs = kernel.proofs
    before, after = driver.npu_kernel(driver.in_source_order(built)).timeline, kernel.timeline
    artefacts.add(f"{built.source.name}.npu", kernel.text)
    artefacts.add("trace.json", chrome_trace(after))
    figures = {
        "cycles": {"source order": before.cycles, "reordered": after.cycles},
        "busy": {"source order": before.busy_share, "reordered": after.busy_share},
        "proofs": [str(p) for p in proofs],
    }
    lines = [cycles_line(before.cycles, after.cycles), pipes_table(before.busy_share, after.busy_share)]
    lines += [f"  proved: {p}" for p in proofs]
    lines += [f"  pressure: {line.strip()}" for line in shortages(driver.demand(built))]
    return figures, "\n".join(lines)


def emit_cpu(built: Build, artefacts: Artefacts, triple: str = "") -> tuple[dict[str, Any], str]:
    """Machine code, and the forms of it that were asked for; ``triple`` names another processor than this one."""
    from opc.cpu import aot
    from opc.cpu.header import emit_header
    from opc.cpu.kernel import lower

    prepare, run = built.module.programs
    start = time.perf_counter()
    unit = lower(prepare, run, built.machine, triple=triple, half=built.half)
    code = aot.emit_object(unit)
    seconds = time.perf_counter() - start
    name, wanted = built.source.name, artefacts.wanted
    makers: dict[str, tuple[str, Callable[[], str | bytes]]] = {
        "llvm": ("ll", lambda: aot.emit_llvm(unit)),
        "asm": ("s", lambda: aot.emit_assembly(unit)),
        "obj": ("o", lambda: code),
        "so": ("so", lambda: shared_object(code, triple)),
        "header": ("h", lambda: emit_header(unit, built.source.tensors())),
    }
    for form, (ending, make) in makers.items():
        if form in wanted:
            artefacts.add(f"{name}.{ending}", make())
    sizes = {"object": len(code), "packed": unit.packed_size, "workspace": unit.workspace_size(1)}
    shown = f"  machine code in {duration(seconds)}: " + ", ".join(
        f"{k} {v:,} bytes" for k, v in sizes.items()
    )
    return {"bytes": sizes, "code_seconds": seconds}, shown


def modelled(built: Build) -> tuple[dict[str, Any], str]:
    """Cycles in source order and as ordered, by the model of machines whose program order is the schedule."""
    from opc.program.window import core_cycles
    from opc.report.timeline_text import cycles_line

    if not built.machine.window:
        return {}, ""
    orders = (driver.in_source_order(built), built)
    before, after = (core_cycles(b.module.run, built.machine) for b in orders)
    return {"cycles": {"source order": before, "reordered": after}}, "  one core by the model:" + cycles_line(
        before, after
    )


def shared_object(code: bytes, triple: str = "") -> bytes:
    """Link an object with the system's compiler. Raises RuntimeCallError if there is none."""
    from opc.cpu.aot import link

    with tempfile.TemporaryDirectory(prefix="opc-") as folder:
        path = Path(folder) / "kernel.so"
        link([code], path, triple=triple)
        return path.read_bytes()
