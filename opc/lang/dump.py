"""The syntax tree as indented text, for ``--emit ast``."""

from __future__ import annotations

import dataclasses

from opc.errors import Span
from opc.lang.syntax import File


def dump_ast(file: File) -> str:
    """One node per line: its class, its plain fields, its line and column; children indented."""
    lines = ["ast v1"]
    stack: list[tuple[object, int]] = [(d, 1) for d in reversed(file.declarations)]
    while stack:
        node, depth = stack.pop()
        lines.append("  " * depth + _head(node))
        stack.extend((child, depth + 1) for child in reversed(_children(node)))
    return "\n".join(lines) + "\n"


def _head(node: object) -> str:
    assert dataclasses.is_dataclass(node)
    parts = [type(node).__name__]
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, str | int | float) and value != "":
            parts.append(f"{field.name}={value!r}")
    span: Span = node.span  # type: ignore[attr-defined]
    return f"{' '.join(parts)} at {span.line}:{span.column}"


def _children(node: object) -> list[object]:
    found: list[object] = []
    for field in dataclasses.fields(node):  # type: ignore[arg-type]
        value = getattr(node, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item) and not isinstance(item, Span):
                found.append(item)
    return found
