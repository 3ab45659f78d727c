"""The buffer between the kernels of a pair in the C interface: who fills which part of it, and who reads it.

Forward writes the tensors that it makes, and the addresses of those arguments and results that backward reads.
Parameters are arguments of both kernels, because each packs them for itself.
"""

from __future__ import annotations

from collections.abc import Collection

from opc.tensor.saved import Half

SAVED = "saved."  # no tensor has such a name


def inside(half: Half | None) -> Collection[str]:
    """Arguments of run that a C caller gives by way of the buffer."""
    if half is None:
        return ()
    return half.saved.made_names if half.is_forward else [*half.saved.made_names, *addresses(half)]


def noted(half: Half | None) -> list[str]:
    """Arrays whose addresses run writes into the buffer."""
    return addresses(half) if half is not None and half.is_forward else []


def addresses(half: Half) -> list[str]:
    """Arrays that the buffer points to."""
    params = {a.tensor.name for a in half.forward.args if a.kind == "param"}
    return [t.name for t in half.saved.kept if t.name not in params]


def text(half: Half | None) -> list[str]:
    """LLVM text that finds the pointers ``%p.NAME`` in the buffer, and writes those that backward will want."""
    if half is None:
        return []
    offsets = half.saved.offsets
    lines = [f"  %p.{n} = {_at(offsets[n])}" for n in half.saved.made_names]
    for i, name in enumerate(addresses(half)):
        lines.append(f"  %at{i} = {_at(offsets[name])}")
        if half.is_forward:
            lines.append(f"  store ptr %p.{name}, ptr %at{i}, align 8")
        else:
            lines.append(f"  %p.{name} = load ptr, ptr %at{i}, align 8")
    return lines


def _at(offset: int) -> str:
    return f"getelementptr i8, ptr %p.{SAVED}, i64 {offset}"
