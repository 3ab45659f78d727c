"""Machine files: ``load`` reads a shipped machine by name or a user's TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from opc.errors import MachineError, fail
from opc.machine.model import Machine, Route, Space, VectorCost
from opc.machine.read import build

__all__ = ["Machine", "Route", "Space", "VectorCost", "load", "names"]

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped machines."""
    return sorted(p.stem for p in _FOLDER.glob("*.toml"))


def load(name: str) -> Machine:
    """The shipped machine ``name``, or the one a ``.toml`` path describes. Raises MachineError (E06xx)."""
    if not name.endswith(".toml"):
        if name not in names():
            raise fail(
                MachineError, "E0601", f"unknown machine '{name}'", help="shipped: " + ", ".join(names())
            )
        return _load_file(str(_FOLDER / f"{name}.toml"))
    return _read(Path(name))


@lru_cache(maxsize=32)
def _load_file(path: str) -> Machine:
    return _read(Path(path))


def parse(text: str, file: str) -> Machine:
    """The machine that TOML text describes. Raises MachineError (E06xx)."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise fail(MachineError, "E0603", f"machine file '{file}' is not TOML: {problem}") from None
    return replace(build(data, file), text=text)


def _read(path: Path) -> Machine:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise fail(MachineError, "E0602", f"cannot read machine file '{path}': {_reason(problem)}") from None
    return parse(text, str(path))


def _reason(problem: Exception) -> str:
    return (problem.strerror or "unreadable") if isinstance(problem, OSError) else "it is not UTF-8 text"
