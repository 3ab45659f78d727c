"""Documentation that names a path, a make target, a pass or a code names one that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# Words in backquotes that look like a path of the repository.
PATH = re.compile(
    r"`((?:opc|passes|kernels_dsl|tests|docs|examples|benchmarks|\.ci)(?:/[\w.*<>-]*)+|[\w-]+\.(?:md|toml))`"
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
# Fenced and indented blocks hold code, whose brackets are no links.
FENCED = re.compile(r"^```.*?^```|^ {4}[^\n]*$", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"`make ([\w-]+)`")
CODE = re.compile(r"\bE(?:0[1-9]|10)\d\d\b")


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_paths_exist(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    named = [m for m in PATH.findall(text) if "<" not in m]
    missing = [m for m in named if not list(ROOT.glob(m.rstrip("/"))) and not (page.parent / m).exists()]
    missing += [m for m in LINK.findall(re.sub(r"`[^`]*`", "", text)) if not (page.parent / m).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in TARGET.findall(page.read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no make target '{target}'"


def test_architecture_stays_one_page() -> None:
    assert len((ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_architecture_names_every_folder() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    folders = [p.parent.relative_to(ROOT) for p in (ROOT / "opc").glob("*/__init__.py")]
    assert not [f for f in folders if f"`{f}/`" not in text and f"`{f}`" not in text]


def test_readme_commands_are_make_targets_and_ci_runs_the_second() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\nmake demo\n" in text
    assert "\nmake check\n" in text
    assert "exec make check" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_codes_in_docs_are_explained() -> None:
    from opc.codes import explanations

    for page in PAGES:
        for code in CODE.findall(page.read_text(encoding="utf-8")):
            assert code in explanations(), f"{page.name} names {code}"
