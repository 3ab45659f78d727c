"""Exit status, streams and start-up of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opc import __version__, cli
from opc.codes import explanations
from opc.commands.parser import COMMANDS
from opc.machine import names

OPC = [sys.executable, "-m", "opc"]
DOUBLE = """kernel double(x: T[M, N]) -> (y: T[M, N]) {
  example M = 4, N = 8
  y[i, j] = x[i, j] * 2
}
"""


def shell(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [*OPC, *arguments], input=stdin, text=True, capture_output=True, cwd=cwd, env=env, timeout=120
    )


def test_version() -> None:
    assert shell("--version").stdout == f"opc {__version__}\n"
    assert cli.run(["--version"]) == 0


def test_version_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['opc', '--version']; from opc.__main__ import main; main(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "llvmlite", "lark", "ml_dtypes", "argparse", "opc.cli"} & set(loaded)


@pytest.mark.parametrize(
    "arguments", [[], ["frob"], ["compile"], ["compile", "x.k", "--set", "N"], ["machine", "show"]]
)
def test_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_machine_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["machine", "list"]) == 0
    listed = capsys.readouterr().out
    for name in names():
        assert name in listed
        assert cli.run(["machine", "show", name]) == 0
        assert cli.run(["machine", "show", name, "--json"]) == 0


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    for code in explanations():
        assert cli.run(["explain", code.lower()]) == 0
        assert capsys.readouterr().out.startswith(f"{code}: ")
    assert cli.run(["explain", "E9999"]) == 1


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["opc"] == __version__


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion(shell_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", shell_name]) == 0
    script = capsys.readouterr().out
    assert "--print-after" in script or "print-after" in script
    if shell_name == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_standard_input_and_streams(tmp_path: Path) -> None:
    done = shell("check", "-", stdin=DOUBLE, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "double: ok" in done.stdout
    broken = shell("check", "-", stdin=DOUBLE.replace("x[i", "z[i"), cwd=tmp_path)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "--> <stdin>:3:" in broken.stderr


def test_json_diagnostics(tmp_path: Path) -> None:
    broken = shell("check", "-", "--json", stdin=DOUBLE.replace("x[i", "z[i"), cwd=tmp_path)
    found = json.loads(broken.stderr)["diagnostics"]
    assert found[0]["code"].startswith("E02")
    assert found[0]["span"]["line"] == 3


def test_internal_error_leaves_a_reproducer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("opc.commands.doctor.run", broken)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["doctor"]) == 70
    error = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: planted" in error
    assert "Traceback" not in error
    (report,) = tmp_path.glob("opc-crash-*.txt")
    assert "planted" in report.read_text(encoding="utf-8")


def test_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("opc.commands.doctor.run", interrupted)
    assert cli.run(["doctor"]) == 130


def test_interrupt_leaves_no_partial_file(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [*OPC, "compile", str(root / "kernels_dsl/conv_bn_relu.k"), "-o", str(tmp_path), "--set", "N=8"]
    for delay in (0.0, 0.1, 0.3):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("conv_bn_relu for")
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        # A shell shows death by SIGINT, late in the interpreter's own shutdown, as 130 too.
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert "Traceback" not in error
        assert not list(tmp_path.rglob("*.tmp"))


def test_pipe_closed_by_its_reader() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        f"{sys.executable} -m opc explain | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
    )
    assert done.stderr == ""


def test_a_broken_bound_is_status_3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from opc.tensor.interpret import oracle

    def shifted(*arguments: Any) -> dict[str, Any]:
        return {n: replace(b, value=b.value + 1) for n, b in oracle(*arguments).items()}

    file = tmp_path / "double.k"
    file.write_text(DOUBLE, encoding="utf-8")
    monkeypatch.setattr("opc.tensor.interpret.oracle", shifted)
    assert cli.run(["run", str(file), "--target", "cpu"]) == 3
    shown = capsys.readouterr()
    assert "OUTSIDE" in shown.out
    assert shown.err.startswith("error[E1001]: double on")


def test_a_failing_pass_leaves_its_input_and_a_replay_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from passes.tensor.dce import Dce

    def broken(self: Dce, ir: Any, context: Any) -> Any:
        return replace(ir, results=("nothing",))

    monkeypatch.setattr(Dce, "run", broken)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "double.k").write_text(DOUBLE, encoding="utf-8")
    assert cli.run(["compile", "double.k", "--target", "cpu"]) == 70
    error = capsys.readouterr().err
    replay = next(line.partition("replay: opc ")[2] for line in error.splitlines() if "replay: " in line)
    assert replay == "opt build/double/failed/before-dce.ir --passes 'dce' --machine " + replay.split()[-1]
    assert cli.run([word.strip("'") for word in replay.split()]) == 70
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli.run([word.strip("'") for word in replay.split()]) == 0
    assert capsys.readouterr().out.startswith("func v1 double")
