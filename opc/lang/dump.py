"""The syntax tree as indented text, for ``--emit ast``."""

from __future__ import annotations

from typing import Any

from opc.lang.syntax import File


def dump_ast(file: File) -> str:
    """One node per line: its class, its plain fields, its line and column; children indented."""
    lines = ["ast v1"]
    stack: list[tuple[Any, int]] = [(d, 1) for d in reversed(file.declarations)]
    while stack:
        node, depth = stack.pop()
        lines.append("  " * depth + _head(node))
        stack.extend((child, depth + 1) for child in reversed(_children(node)))
    return "\n".join(lines) + "\n"


def _head(node: Any) -> str:
    parts = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name)
        if isinstance(value, str | int | float) and value != "":
            parts.append(f"{name}={value!r}")
    return f"{' '.join(parts)} at {node.span.line}:{node.span.column}"


def _children(node: Any) -> list[Any]:
    found: list[Any] = []
    for name in node._fields:
        value = getattr(node, name)
        # Nodes are named tuples with a place, as places are without one; plain tuples hold nodes.
        items = value if type(value) is tuple else (value,)
        found += [item for item in items if hasattr(item, "span")]
    return found
