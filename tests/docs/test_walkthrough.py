"""The steps of docs/new-pass.md, performed on a scratch copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = re.compile(r"^```\w+\n# ([\w./-]+\.(?:py|ir|k))\n(.*?)^```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^```python\n# passes/__init__\.py: PASSES\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scratch") / "opc"
    skip = shutil.ignore_patterns("__pycache__", ".*", "build", "filetests")
    for name in ("opc", "passes", "kernels_dsl", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_every_step(copy: Path) -> None:
    page = (ROOT / "docs/new-pass.md").read_text(encoding="utf-8")
    files = FILE.findall(page)
    assert [Path(name).suffix for name, _ in files] == [".py", ".ir", ".k"]
    for name, body in files:
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
    (line,) = TABLE.findall(page)
    table = copy / "passes" / "__init__.py"
    head = "PASSES: dict[str, str] = {\n"
    text = table.read_text(encoding="utf-8")
    assert head in text
    table.write_text(text.replace(head, head + line), encoding="utf-8")
    for block in COMMANDS.findall(page):
        for command in block.splitlines():
            run(command, copy)
    blessed = (copy / "tests/filetests/tensor/idempotent-max.ir").read_text(encoding="utf-8")
    assert blessed.endswith("piece i<8 at i = max(x[i], 0.5)\n  }\n  return y\n}\n")


def run(command: str, folder: Path) -> None:
    words = command.replace("python -m", f"{sys.executable} -m", 1)
    words = re.sub(r"^opc ", f"{sys.executable} -m opc ", words)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        words,
        shell=True,
        cwd=folder,
        env={**env, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
