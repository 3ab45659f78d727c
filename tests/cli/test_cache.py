"""``opc cache``: list, check, shrink, empty; and what `opc doctor` says of the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import opc
from opc import cli
from opc.cache import folder

TWICE = "kernel twice(x: T[N]) -> (y: T[N]) { example N = 8 y[i] = x[i] * 2 }"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv(folder.VARIABLE, str(path))
    return path


def test_list_verify_shrink_and_empty(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (8, 16, 24):
        opc.compile(TWICE, N=n)
    assert cli.run(["cache", "ls"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("twice") == 3
    assert "f32[24]" in shown
    assert cli.run(["cache", "verify"]) == 0
    victim = min(cache.iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.run(["cache", "verify", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["entries"], found["damaged"], found["listed"][0]["key"]) == (3, 1, victim.stem)
    assert cli.run(["cache", "gc"]) == 0
    assert not victim.exists()
    assert cli.run(["cache", "gc", "--size", "0", "--json"]) == 0
    assert list(cache.iterdir()) == []
    opc.compile(TWICE)
    assert cli.run(["cache", "clear"]) == 0
    assert list(cache.iterdir()) == []


def test_empty_cache(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("ls", "verify", "gc", "clear"):
        assert cli.run(["cache", action]) == 0
    assert "0 entries" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["ls", "--size", "1"], ["gc", "--size", "-1"], ["gc", "--size", "1MK"]]
)
def test_usage(cache: Path, arguments: list[str]) -> None:
    assert cli.run(["cache", *arguments]) == 2


def test_no_cache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(folder.VARIABLE, "off")
    assert cli.run(["cache", "ls"]) == 1
    assert capsys.readouterr().err.startswith("error[E0915]: the cache is not used: switched off")


def test_doctor(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> str:
        assert cli.run(["doctor", "--json"]) == 0
        return str(json.loads(capsys.readouterr().out)["cache"])

    assert said() == str(cache)
    cache.mkdir(mode=0o700)
    cache.chmod(0o777)
    assert "others may write" in said()
    cache.chmod(0o700)
    monkeypatch.setenv(folder.VARIABLE, "/proc/no/such/place")
    assert "cannot be written" in said()
    monkeypatch.setenv(folder.VARIABLE, "off")
    assert said() == "switched off by OPC_CACHE_DIR"
