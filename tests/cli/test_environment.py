"""The command line in hostile surroundings: closed streams, full disks, wrong settings, odd files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opc import cli, machine
from opc.dtypes import DType

ROOT = Path(__file__).resolve().parents[2]
OPC = f"{sys.executable} -m opc"
PAIR = """kernel twice(x: T[N]) -> (y: T[N]) { example N = 8 y[i] = x[i] * 2 }
kernel thrice(x: T[N]) -> (y: T[N]) { example N = 8 y[i] = x[i] * 3 }
"""


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.k").write_text(PAIR, encoding="utf-8")
    return "pair.k"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        line, shell=True, text=True, capture_output=True, cwd=folder, env=env, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("check - <&-", 1, "E0115"),
        ("machine list >&-", 0, ""),
        ("--version >&-", 0, ""),
        ("explain E9999 2>&-", 1, ""),
        ("machine list >/dev/full", 1, "E0923"),
    ],
)
def test_streams(line: str, status: int, code: str, tmp_path: Path) -> None:
    done = shell(f"{OPC} {line}", tmp_path)
    assert done.returncode == status, done.stderr
    assert code in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "no reproducer of an internal error"


def test_refusals_as_json(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", pair, "--dtype", "bf16", "--json"]) == 0
    shown = capsys.readouterr()
    assert [row["kernel"] for row in json.loads(shown.out)] == ["twice", "thrice"]
    assert {d["code"] for d in json.loads(shown.err)["diagnostics"]} == {"E0620"}


def test_unknown_pass_to_print(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compile", pair, "--print-after", "fuze"]) == 1
    assert capsys.readouterr().err.startswith("error[E0701]: unknown pass 'fuze'")
    assert not Path("build").exists()


def test_seed_is_not_negative(pair: str) -> None:
    assert cli.run(["run", pair, "--seed", "-1"]) == 2


def test_cpu_machine_of_the_environment(
    pair: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPC_MACHINE", "ascend910")
    assert cli.run(["run", pair, "--target", "cpu"]) == 1
    assert capsys.readouterr().err.startswith("error[E0605]: OPC_MACHINE is 'ascend910'")


def test_one_input_file_serves_every_target(pair: str) -> None:
    np.save("x.npy", np.linspace(-1, 1, 8))
    assert cli.run(["run", pair, "--input", "x=x.npy"]) == 0
    np.save("b.npy", np.ones(8, DType.BF16.numpy))
    assert cli.run(["run", pair, "--input", "x=b.npy", "--dtype", "bf16", "--target", "cpu"]) == 0
    np.save("c.npy", np.ones(8, np.complex64))
    assert cli.run(["run", pair, "--input", "x=c.npy", "--target", "cpu"]) == 1


def test_a_check_that_is_too_large_is_no_failed_check(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("big.k").write_text("kernel f(x: T[N]) -> (y: T[1]) { y[0] = sum[i, j, k](x[i] * x[j] * x[k]) }")
    assert cli.run(["run", "big.k", "--set", "N=100000", "--target", "cpu"]) == 1
    assert capsys.readouterr().err.startswith("error[E1002]")


def test_windows_line_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.k").write_bytes(b"kernel f(x: T[N]) -> (y: T[N]) {\r\n y[i] = q[i]\r\n}\r\n")
    assert cli.run(["check", str(tmp_path / "w.k")]) == 1
    assert "?" not in capsys.readouterr().err


@pytest.mark.parametrize("name", machine.names())
def test_machine_file_that_lacks_one_line(name: str, pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (ROOT / f"opc/machine/{name}.toml").read_text(encoding="utf-8").split("\n")
    start = lines.index("[roles]")
    roles = [i for i in range(start + 1, lines.index("", start)) if "=" in lines[i]]
    for i in roles:
        Path("m.toml").write_text("\n".join(lines[:i] + lines[i + 1 :]), encoding="utf-8")
        command = ["check", str(ROOT / "kernels_dsl/linear_bias_relu.k"), "--machine", "m.toml"]
        assert cli.run(command) in (0, 1), lines[i]
        assert "internal" not in capsys.readouterr().err


def test_nested_machine_file(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.toml").write_text("a = " + "[" * 100_000, encoding="utf-8")
    assert cli.run(["machine", "show", "m.toml"]) == 1
    assert capsys.readouterr().err.startswith("error[E0603]")


PLACED = """program v1 p machine avx2 {
  buffer x: f32[8]@gm input
  buffer y: f32[8]@gm output
  buffer t: f32[8]@SPACE local
  loop i < 1 {
    copy_in.copy t[j] = x[j] for j<8
    copy_out.copy y[j] = t[j] for j<8
  }
}
"""


@pytest.mark.parametrize(
    ("space", "passes", "code"),
    [
        ("f32", "expand-slots", "E0560"),  # a space of no machine
        ("vector", "expand-slots", "E0560"),  # a role, not yet a space
        ("reg", "cse", "E0706"),
        ("reg", "tile", "E0706"),
    ],
)
def test_pass_on_wrong_program(
    space: str, passes: str, code: str, pair: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.ir").write_text(PLACED.replace("SPACE", space), encoding="utf-8")
    assert cli.run(["opt", "p.ir", "--passes", passes, "--machine", "avx2"]) == 1
    assert capsys.readouterr().err.startswith(f"error[{code}]")


def test_program_pass_on_tensor_ir(pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["opt", str(ROOT / "tests/filetests/tensor/simplify.ir"), "--passes", "plan-memory"]) == 1
    assert capsys.readouterr().err.startswith("error[E0706]")
