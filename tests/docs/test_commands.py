"""Every ``opc`` command, example and Python block of the documentation runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    return [
        body for kind, body in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if kind == language
    ]


def commands(page: str) -> list[str]:
    lines = [line for body in blocks(page, "sh") for line in body.splitlines()]
    return [line for line in lines if re.search(r"\bopc\b", line)]


COMMANDS = [("docs/cli.md", c) for c in commands("docs/cli.md")] + [
    ("README.md", c) for c in commands("README.md")
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository, where commands may write."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("kernels_dsl", "tests/filetests", "tests/samples"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "bin").mkdir()
    script = folder / "bin" / "opc"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m opc "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # PYTHONSAFEPATH: the folder's kernels_dsl is a copy of data, not the package.
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_command(page: str, command: str, workplace: Path) -> None:
    done = shell(command, workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout


PROGRAMS = [
    (page, number)
    for page in ("README.md", "docs/torch.md", "docs/training.md")
    for number in range(len(blocks(page, "python")))
]


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_python(page: str, number: int, tmp_path: Path) -> None:
    text = blocks(page, "python")[number].replace('"kernels_dsl/', f'"{ROOT}/kernels_dsl/')
    if "import torch" in text:
        pytest.importorskip("torch")
    file = tmp_path / "block.py"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_readme_kernel(workplace: Path) -> None:
    (kernel,) = blocks("README.md", "text")
    (workplace / "readme.k").write_text(kernel, encoding="utf-8")
    done = shell("opc run readme.k", workplace)
    assert done.returncode == 0, done.stderr


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONG = {"07_train_digits"}  # shortened, in a test of its own


def run_example(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / f"examples/{name}.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_few_epochs_learn_most_digits(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run_example("07_train_digits", tmp_path, "--epochs", "2", "--pairs", "1", "--dtype", dtype)
    accuracy = re.search(r"test accuracy ([0-9.]+)%", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 85
    assert (tmp_path / f"build/digits-{dtype}.png").stat().st_size > 1000


@pytest.mark.parametrize("name", [e.stem for e in EXAMPLES if e.stem not in LONG])
def test_example(name: str, tmp_path: Path) -> None:
    if "import torch" in (ROOT / f"examples/{name}.py").read_text(encoding="utf-8"):
        pytest.importorskip("torch")
    done = run_example(name, tmp_path)
    assert done.stdout
    assert "False" not in done.stdout
