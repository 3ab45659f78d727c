"""Derived kernels on the command line: both kernels of a pair, on both targets, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opc import cli

SOURCE = """
kernel standard(x: T[N, M]) -> (y: T[N, M]) {
  example N = 4, M = 24
  mean[i], m2[i] = moments[j](x[i, j])
  y[i, j] = (x[i, j] - mean[i]) * rsqrt(m2[i] / M + 1e-5)
}
kernel standard_grad = grad(standard, wrt=[x])
"""
NAMES = ["standard_grad.fwd", "standard_grad.bwd"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "standard.k"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def test_both_kernels_on_both_targets_agree_with_the_oracle(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", file, "--dtype", "f16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(r["kernel"], r["result"]) for r in rows} >= {
        ("standard", "y"),
        (NAMES[0], "m2"),
        (NAMES[1], "d_x"),
    }
    assert len({r["machine"] for r in rows}) == 2
    assert all(r["ok"] for r in rows)


def test_what_is_saved_is_listed(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compile", file, "--kernel", "standard_grad", "-o", str(tmp_path)]
    assert cli.run([*command, "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [r["kernel"] for r in reports] == [NAMES[0]] * 2 + [NAMES[1]] * 2
    saved = {row["name"]: row for row in reports[0]["saved"]}
    assert saved["x"]["bytes"] == 0
    assert saved["m2"]["bytes"] == 4 * 4
    assert all(row["why"] for row in saved.values())
    assert (tmp_path / NAMES[1] / "standard_grad_bwd.npu").exists()


@pytest.mark.parametrize("command", ["check", "timeline"])
def test_one_of_the_kernels_by_name(file: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, file, "--kernel", NAMES[1]]) == 0
    shown = capsys.readouterr().out
    assert NAMES[1] in shown
    assert NAMES[0] not in shown


def test_a_kernel_that_is_not_there(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, code in (("other.bwd", "E0233"), ("standard.bwd", "E0233")):
        assert cli.run(["check", file, "--kernel", name]) == 1
        assert code in capsys.readouterr().err
