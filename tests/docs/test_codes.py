"""Every code that the sources raise is explained, and every explanation is a code that is raised."""

from __future__ import annotations

import re
from pathlib import Path

from opc.codes import explanations

ROOT = Path(__file__).resolve().parents[2]
RAISED = re.compile(r"[\"'](E(?:0[1-9]|10)\d\d)[\"']")


def raised() -> set[str]:
    files = [*(ROOT / "opc").rglob("*.py"), *(ROOT / "passes").rglob("*.py")]
    return {code for f in files for code in RAISED.findall(f.read_text(encoding="utf-8"))}


def test_every_raised_code_is_explained() -> None:
    assert sorted(raised() - set(explanations())) == []


def test_every_explanation_is_raised() -> None:
    assert sorted(set(explanations()) - raised()) == []


def test_explanations_are_texts() -> None:
    for entry in explanations().values():
        assert entry.title
        assert not entry.title.endswith(".")
        assert len(entry.text) > 40, f"{entry.code} explains too little"


def test_there_are_many_distinct_diagnostics() -> None:
    assert len(explanations()) >= 60
