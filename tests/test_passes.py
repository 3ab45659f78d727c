"""Every pass is one file, one name, one test, and its docstring shows IR that reads back."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path

import pytest

from opc.build import parse_ir, text_of
from passes import PASSES, PIPELINES, load

FILETESTS = Path(__file__).parent / "filetests"
EXAMPLE = re.compile(r"^(\s*)(Before|After):\n((?:\1[ ]+.*\n|\s*\n)+)", re.MULTILINE)


@pytest.mark.parametrize("name", PASSES)
def test_file_class_and_name_agree(name: str) -> None:
    module, _, cls = PASSES[name].partition(":")
    assert module.rpartition(".")[2] == name.replace("-", "_")
    assert cls == "".join(word.capitalize() for word in name.split("-"))
    loaded = load(name)
    assert loaded.name == name
    assert loaded.level in ("tensor", "lowering", "program")
    assert dataclasses.is_dataclass(loaded)
    assert loaded.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PASSES)
def test_docstring_shows_parseable_ir(name: str) -> None:
    shown = EXAMPLE.findall(load(name).__doc__ or "")
    assert {kind for _, kind, _ in shown} == {"Before", "After"}
    for _, kind, body in shown:
        text = textwrap.dedent(body).strip() + "\n"
        assert text_of(parse_ir(text, f"{name} {kind}")) == text


@pytest.mark.parametrize("name", PASSES)
def test_has_a_filetest(name: str) -> None:
    tested = [
        f
        for f in FILETESTS.rglob("*.ir")
        if re.match(rf"# RUN: (?:.*,)?{name}\b", f.read_text(encoding="utf-8"))
    ]
    assert tested, f"write tests/filetests/{load(name).level}/{name}.ir"


def test_pipelines_name_known_passes() -> None:
    assert {step for steps in PIPELINES.values() for step in steps} <= set(PASSES)
