"""The HTML report: complete, without references to a network, and alive in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import kernels_dsl
from opc import cli
from opc.report.page import page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert cli.run(["report", str(kernels_dsl.path("softmax")), "-o", str(folder)]) == 0
    return folder / "softmax" / "report.html"


def payload(report: Path) -> dict[str, object]:
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', report.read_text(encoding="utf-8"))
    assert found
    data: dict[str, object] = json.loads(found[1])
    return data


def test_data_is_complete(report: Path) -> None:
    data = payload(report)
    assert [t["label"] for t in data["timelines"]] == ["Source order", "Reordered"]  # type: ignore[attr-defined]
    assert data["source"] == kernels_dsl.source("softmax")
    names = [ir["name"] for ir in data["irs"]]  # type: ignore[attr-defined]
    assert names[0] == "tensor IR"
    assert names[-2:] == ["listing, source order", "listing, reordered"]
    assert "after tile" in names
    assert "after insert-sync" in names
    assert data["proofs"]


def test_instructions_know_their_lines(report: Path) -> None:
    data = payload(report)
    listing = data["irs"][-1]["text"].splitlines()  # type: ignore[index]
    for _, text, line, at in data["timelines"][-1]["kinds"]:  # type: ignore[index]
        assert listing[at - 1].strip() == text
        assert not line or f"line={line}" in text


def test_no_reference_leaves_the_file(report: Path) -> None:
    text = report.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text
    assert not re.search(r"<(link|img|iframe)|src=|@import", text)


def test_a_source_cannot_end_the_script() -> None:
    text = page("</title><b>", {"source": "</script><script>alert(1)</script>"})
    assert text.count("<script") == text.count("</script>") == 2
    assert "<title>&lt;/title>&lt;b></title>" in text


def test_same_bytes_again(report: Path, tmp_path: Path) -> None:
    """All but the times that passes took."""
    assert cli.run(["report", str(kernels_dsl.path("softmax")), "-o", str(tmp_path)]) == 0
    first, second = payload(report), payload(tmp_path / "softmax" / "report.html")
    for key in ("timelines", "occupancy", "roofline", "source", "summary"):
        assert first[key] == second[key]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_without_network(report: Path, tmp_path: Path) -> None:
    assert BROWSER
    command = [
        BROWSER,
        "--headless",
        "--disable-gpu",
        "--no-sandbox",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom", report.as_uri()]
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert 'data-ready="yes"' in done.stdout  # set by the script's last line
    assert done.stdout.count("<canvas") == 3
    shown = done.stdout.split('id="data"')[0]  # what the script drew, not what it read
    assert "kernel softmax(x: T[M, N])" in shown
    assert "V vexp" in shown
    assert "<circle" in shown
    assert "proved: 0 races" in shown
