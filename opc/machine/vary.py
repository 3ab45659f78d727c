"""Machines that differ from a given one in a few figures: what ``opc sweep`` tries."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.machine.read import build

Figure = int | float


def varied(machine: Machine, figures: Mapping[str, Figure]) -> Machine:
    """``machine`` with some figures of its file replaced, each named by its path (``cube.latency``); the
    tables ``spaces`` and ``routes`` may be left out (``l1.capacity``, ``gm.ub.bandwidth``).

    Raises MachineError E0614 for a figure that the file does not have, E06xx for a value it may not have.
    """
    data = tomllib.loads(machine.text)
    view = {**data, "routes": _by_ends(data.get("routes", []))}
    for path, value in figures.items():
        table, key = _place(view, path, machine)
        table[key] = value
        if table is view:
            data[key] = value
    changed = ", ".join(f"{path} = {value}" for path, value in figures.items())
    return replace(build(data, f"{machine.name} with {changed}"), text=machine.text)


def _by_ends(routes: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The very tables of the routes, by source and target."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for route in routes:
        found.setdefault(str(route.get("from")), {})[str(route.get("to"))] = route
    return found


def _place(data: dict[str, Any], path: str, machine: Machine) -> tuple[dict[str, Any], str]:
    *tables, key = path.split(".")
    for first in ((), ("spaces",), ("routes",)):
        table = _descend(data, (*first, *tables))
        if table is not None and _is_figure(table.get(key)):
            return table, key
    known = sorted(_figures(data))
    close = difflib.get_close_matches(path, known, 3, 0.4)
    raise fail(
        MachineError,
        "E0614",
        f"machine '{machine.name}' has no figure '{path}'",
        help="did you mean " + ", ".join(close) + "?" if close else "figures: " + ", ".join(known),
    )


def _descend(data: Any, path: tuple[str, ...]) -> dict[str, Any] | None:
    """The table at ``path``, if there is one."""
    for name in path:
        if not isinstance(data, dict) or name not in data:
            return None
        data = data[name]
    return data if isinstance(data, dict) else None


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figures(data: Any, path: str = "") -> list[str]:
    """Paths of all figures of a file."""
    if _is_figure(data):
        return [path.removeprefix("spaces.").removeprefix("routes.")]
    if not isinstance(data, dict):
        return []
    return [f for key, value in data.items() for f in _figures(value, f"{path}.{key}" if path else key)]
