"""``tune=True`` and ``--tune``: the choice is shown, kept, and used by a later process without timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels_dsl
import opc
from opc import cli, driver
from opc.cache import folder, manage
from opc.cache.key import Request
from opc.cpu import features
from opc.errors import Diagnostic, OpcError
from opc.tuning import choose, memory
from opc.tuning.choose import MODEL, Choice, Timed

MATMUL = kernels_dsl.path("matmul")
SIZES = {"M": 60, "N": 64, "K": 50}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv(folder.VARIABLE, str(path))
    return path


@pytest.fixture
def last_wins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A race that the last candidate wins; counts races."""
    races: list[int] = []

    def race(calls: dict[str, Any]) -> dict[str, list[float]]:
        races.append(len(calls))
        return {plans: [1.0 / (i + 1)] for i, plans in enumerate(calls)}

    monkeypatch.setattr(choose, "race", race)
    return races


def test_the_choice_is_kept(cache: Path, last_wins: list[int]) -> None:
    plain = opc.compile(MATMUL, threads=1, **SIZES)
    tuned = opc.compile(MATMUL, threads=1, tune=True, **SIZES)
    assert plain.plans == MODEL
    assert tuned.plans != MODEL
    assert len(last_wins) >= 1
    before = len(last_wins)
    again = opc.compile(MATMUL, threads=1, tune=True, **SIZES)
    assert again.plans == tuned.plans
    assert again.program_ir == tuned.program_ir != plain.program_ir
    assert len(last_wins) == before, "nothing is timed twice"
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(np.float32) for s in ((60, 50), (50, 64)))
    assert plain(a, b).tobytes() == tuned(a, b).tobytes() == again(a, b).tobytes()


def test_threads_and_processor_have_their_own_choice(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request("text", "file")
    keys = {memory.key_for(request, 1), memory.key_for(request, 2)}
    monkeypatch.setattr(memory, "host_model", lambda: "another")
    keys |= {memory.key_for(request, 1), memory.key_for(request._replace(numerics="fast"), 1)}
    assert len(keys) == 4
    assert features.host_model().strip("/")


def test_memory(cache: Path) -> None:
    choice = Choice("rows=3", (Timed("rows=3", 1.5, 1.25, 7), Timed("x", note="does not fit")))
    assert memory.keep("a" * 64, choice, "matmul")
    assert memory.find("a" * 64) == choice
    assert memory.find("b" * 64) is None
    assert memory.find(None) is None
    bug = choice._replace(problems=(Diagnostic("E1003", "differs"),))
    assert not memory.keep("b" * 64, bug, "matmul")
    kernel = manage.entries()[0].path
    Path(kernel).rename(cache / ("c" * 64 + ".opc"))
    assert memory.find("c" * 64) is None


def test_a_kernel_is_no_choice_and_a_choice_no_kernel(cache: Path) -> None:
    from opc.cache import kernels

    opc.compile(MATMUL, **SIZES)
    (entry,) = manage.entries()
    assert memory.find(entry.key) is None
    memory.keep("a" * 64, Choice("rows=3"), "matmul")
    assert kernels.find("a" * 64) is None


def test_a_bug_is_a_warning(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = Choice(MODEL, problems=(Diagnostic("E1003", "plans differ"),))
    monkeypatch.setattr(driver, "tuned", lambda *_: bug)
    with pytest.warns(RuntimeWarning, match=r"E1003.*plans differ"):
        assert opc.compile(MATMUL, tune=True, **SIZES).plans == MODEL


def test_nothing_to_time(cache: Path, last_wins: list[int]) -> None:
    assert opc.compile(MATMUL, tune=True, machine="ascend910").plans == MODEL
    assert opc.compile(kernels_dsl.path("relu"), tune=True).plans == MODEL
    assert last_wins == []
    with pytest.raises(OpcError):
        opc.compile(MATMUL, tune=True, numerics="loose", **SIZES)


def test_command_line(
    cache: Path, last_wins: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(MATMUL), "--set", "M=60,N=64,K=50", "--tune"]
    command = ["compile", *line, "--target", "cpu", "--threads", "1", "-o", str(tmp_path / "out")]
    assert cli.run(command) == 0
    shown = capsys.readouterr().out
    assert "the model's choice" in shown
    assert "chosen" in shown
    before = len(last_wins)
    assert cli.run([*command, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["tuning"]["plans"]
    assert report["tuning"]["plans"] in {row["plans"] for row in report["tuning"]["candidates"]}
    assert cli.run(["bench", *line, "--seconds", "0.01", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["plans"] == report["tuning"]["plans"]
    assert len(last_wins) == before
    assert cli.run(["cache", "ls"]) == 0
    assert f"tuned: {row['plans']}" in capsys.readouterr().out
