"""Artefacts of ``opc compile``: collected first, then each written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opc import driver
from opc.build import Build, text_of
from opc.files import write_atomic
from opc.lang import File, dump_ast

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
    return figures, "\n".join(lines)


def emit_cpu(built: Build, artefacts: Artefacts) -> tuple[dict[str, Any], str]:
    """Machine code in the forms asked for."""
    return {}, ""
