"""Every diagnostic of the language by its text: errors/NAME.k fails with what errors/NAME.txt says.

A first line ``# lower: N=4 T=f16 layout=nhwc kernel=f`` gives arguments; ``--bless`` rewrites the texts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from opc.codes import explanations
from opc.dtypes import DType
from opc.errors import LanguageError
from opc.lang import lower

FOLDER = Path(__file__).parent / "errors"
CASES = sorted(FOLDER.glob("*.k"))
LANGUAGE = Path(__file__).parents[2] / "opc" / "lang"
# Their inputs are too large for a file here; test_hostile.py makes them.
LARGE = {"E0105", "E0106", "E0107", "E0108", "E0246"}


def arguments(text: bytes) -> dict[str, Any]:
    """Keyword arguments of ``lower`` from the first line."""
    first = text.split(b"\n")[0].decode("utf-8", "replace")
    out: dict[str, Any] = {"sizes": {}}
    if first.startswith("# lower:"):
        for word in first.removeprefix("# lower:").split():
            key, value = word.split("=")
            if key == "T":
                out["dtype"] = DType(value)
            elif key in ("layout", "kernel"):
                out[key] = value
            else:
                out["sizes"][key] = float(value) if "." in value else int(value)
    return out


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden(path: Path, bless: bool) -> None:
    text = path.read_bytes()
    with pytest.raises(LanguageError) as caught:
        lower(text, path.name, use_path=FOLDER, **arguments(text))
    shown = str(caught.value) + "\n"
    if path.stem.startswith("E0"):
        assert caught.value.code == path.stem[:5]
    golden = path.with_suffix(".txt")
    if bless:
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8"), "run with --bless if the new text is better"


def test_the_caret_stands_under_the_place() -> None:
    with pytest.raises(LanguageError) as caught:
        lower("kernel f(x: T[N]) -> (y: T[N]) {\n\ty[i] = z[i]\n}", "t.k")
    lines = str(caught.value).split("\n")
    assert lines[1] == "  --> t.k:2:9"
    assert lines[3].index("z[i]") == lines[4].index("^^^^")


def codes_raised() -> set[str]:
    texts = (p.read_text(encoding="utf-8") for p in sorted(LANGUAGE.glob("*.py")))
    return {code for text in texts for code in re.findall(r'"(E0\d{3})"', text)}


def test_every_code_has_a_golden() -> None:
    covered = {p.stem[:5] for p in CASES}
    assert codes_raised() - covered == LARGE
    assert len(covered) >= 45


def test_every_code_is_explained_and_no_other() -> None:
    explained = {code for code, e in explanations().items() if e.family == "language"}
    assert explained == codes_raised()
