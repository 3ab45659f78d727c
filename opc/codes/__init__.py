"""What every diagnostic code means: ``opc explain`` reads the TOML files beside this module."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code: a one-line title and a text with a small wrong example and its mending."""

    code: str
    title: str
    text: str
    family: str


@cache
def explanations() -> dict[str, Explanation]:
    """Every code, sorted."""
    found: dict[str, Explanation] = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for code, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
            found[code] = Explanation(code, entry["title"], entry["explanation"].strip(), path.stem)
    return dict(sorted(found.items()))
