"""The operators opc ships, written in its own language: ``NAME.k`` declares the kernel ``NAME``.

Every file here is both a program to compile and a library operator that other kernels may call.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["names", "path", "source"]

_FOLDER = Path(__file__).parent


@cache
def names() -> tuple[str, ...]:
    """Names of the shipped kernels, sorted."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.k")))


def path(name: str) -> Path:
    """The file of kernel ``name``. Raises KeyError if opc ships none."""
    if name not in names():
        raise KeyError(name)
    return _FOLDER / f"{name}.k"


def source(name: str) -> str:
    """The text of kernel ``name``. Raises KeyError if opc ships none."""
    return path(name).read_text(encoding="utf-8")
