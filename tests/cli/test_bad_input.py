"""Bad input gives a coded message and status 1: never a traceback, a hang or a partial file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import kernels_dsl
from opc import cli, machine
from opc.build import PassFailedError, run_passes
from opc.pipeline import Context
from opc.tensor.text import parse_function

GOOD = """kernel double(x: T[M, N]) -> (y: T[M, N]) {
  example M = 4, N = 8
  y[i, j] = x[i, j] * 2
}
"""
HEAD = "kernel f(x: T[M, N]) -> (y: T[M, N]) { example M = 4, N = 8 "

SOURCES = {
    "empty call": "kernel",
    "syntax": HEAD + "y[i, j] = x[i, j] ** 2 }",
    "unknown name": HEAD + "y[i, j] = z[i, j] }",
    "unknown function": HEAD + "y[i, j] = frob(x[i, j]) }",
    "rank": HEAD + "y[i, j] = x[i] }",
    "shape": "kernel f(x: T[M], w: T[M + 1]) -> (y: T[M]) { example M = 4 y[i] = x[i] + w[i + 2] }",
    "leaves its tensor": HEAD + "y[i, j] = x[i, j + 1] }",
    "not affine": HEAD + "y[i, j] = x[i * j, j] }",
    "overlapping pieces": HEAD + "y[i, j] = x[i, j] y[i, j] = x[i, j] }",
    "division by zero": "kernel f(x: T[M]) -> (y: T[M // 0]) { example M = 4 y[i] = x[i] }",
    "contradiction": 'kernel f(x: T[M]) -> (y: T[M]) { example M = 4 require M == 5 "M is five" y[i] = x[i] }',
    "cyclic use": 'use "cycle.k" ' + GOOD,
    "missing use": 'use "nowhere.k" ' + GOOD,
    "nested": HEAD + "y[i, j] = " + "(" * 200_000 + "x[i, j]" + ")" * 200_000 + " }",
    "long line": HEAD + "y[i, j] = x[i, j]" + " + 1" * 250_000 + " }",
    "unclosed text": HEAD + '"doc',
    "unknown dtype": "kernel f(x: f8[M]) -> (y: f8[M]) { example M = 4 y[i] = x[i] }",
    "control characters": HEAD + "y[i, j] = x[i, j]\x00\x1b[31m }",
}

SIZES = ["N=0", "N=-3", f"N={2**62}", "Q=3", "N=1.5"]


def run(*arguments: str) -> int:
    return cli.run(arguments)


def assert_refused(status: int, capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    shown = capsys.readouterr()
    assert status == 1, shown.err
    assert shown.err.startswith("error[E")
    assert "Traceback" not in shown.err
    assert len(shown.err) < 20_000
    assert "\x1b" not in shown.err
    assert not list(folder.rglob("*.npu")), "something was written"
    return shown.err


@pytest.mark.parametrize("text", SOURCES.values(), ids=SOURCES)
def test_source(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cycle.k"
    file.write_text(text, encoding="utf-8")
    error = assert_refused(run("compile", str(file), "-o", str(tmp_path / "out")), capsys, tmp_path)
    assert "--> " in error


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(sizes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "double.k"
    file.write_text(GOOD, encoding="utf-8")
    assert_refused(run("compile", str(file), "--set", sizes, "-o", str(tmp_path / "out")), capsys, tmp_path)


@pytest.mark.parametrize(
    "option", [("--dtype", "f12"), ("--layout", "nhhw"), ("--machine", "z80"), ("--kernel", "g")]
)
def test_options(option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "double.k"
    file.write_text(GOOD, encoding="utf-8")
    assert_refused(run("compile", str(file), *option, "-o", str(tmp_path / "out")), capsys, tmp_path)


def test_invalid_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.k"
    file.write_bytes(GOOD.encode() + b"# \xff\xfe")
    assert "UTF-8" in assert_refused(run("compile", str(file), "-o", str(tmp_path / "out")), capsys, tmp_path)


def test_missing_file_and_folder_as_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(run("compile", str(tmp_path / "no.k")), capsys, tmp_path)
    assert_refused(run("compile", str(tmp_path)), capsys, tmp_path)


def test_unwritable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "double.k"
    file.write_text(GOOD, encoding="utf-8")
    (tmp_path / "out").write_text("a file where a folder should be", encoding="utf-8")
    error = assert_refused(run("compile", str(file), "-o", str(tmp_path / "out")), capsys, tmp_path)
    assert "E0923" in error


@pytest.mark.parametrize(
    "change",
    [
        ("clock_mhz = 3000\n", ""),
        ("clock_mhz = 3000", "clock_mhz = -1"),
        ("[roles]", "["),
        ("l1_bytes = 32768", "l1_bytes = 64"),
        ("l1_ways = 8", "l1_ways = 0"),
        ("bytes = 32\n", "bytes = 3\n"),
    ],
)
def test_machine_file(change: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(cli.__file__).parent / "machine" / "avx2.toml"
    text = shipped.read_text(encoding="utf-8")
    assert change[0] in text
    (tmp_path / "mine.toml").write_text(text.replace(*change), encoding="utf-8")
    file = tmp_path / "double.k"
    file.write_text(GOOD, encoding="utf-8")
    command = ("compile", str(file), "--machine", str(tmp_path / "mine.toml"), "-o", str(tmp_path / "out"))
    assert "E06" in assert_refused(run(*command), capsys, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        ('accumulator = "l0c"', 'accumulator = "ub"'),
        ("[cube]\n", ""),
        ("[roles]\n", ""),
        ("[scale.factor]\nbits = 24", "[scale.factors]\nbits = 24"),
        ('bits = 24\nspace = "ub"', 'bits = 24\nspace = "ube"'),
        ("bits = 24", "bits = 0"),
    ],
)
def test_npu_machine_file(
    change: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = (Path(cli.__file__).parent / "machine" / "ascend910.toml").read_text(encoding="utf-8")
    assert change[0] in shipped
    mine = tmp_path / "mine.toml"
    mine.write_text(shipped.replace(*change), encoding="utf-8")
    command = ("compile", str(kernels_dsl.path("matmul")), "--target", "npu", "--machine", str(mine))
    assert "E06" in assert_refused(run(*command, "-o", str(tmp_path / "out")), capsys, tmp_path)


@dataclass(frozen=True)
class Broken:
    name: ClassVar[str] = "broken"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Any, context: Context) -> Any:
        raise ValueError("on purpose")


def test_a_failed_pass_leaves_the_machine_file_that_its_replay_needs(tmp_path: Path) -> None:
    shipped = (Path(cli.__file__).parent / "machine" / "avx2.toml").read_text(encoding="utf-8")
    mine = machine.parse(shipped.replace("l1_ways = 8", "l1_ways = 12"), "mine.toml")
    f = parse_function("func v1 f {\n  arg x: f32[8] input\n  return x\n}\n")
    for given in (mine, machine.load("avx2")):
        with pytest.raises(PassFailedError) as failure:
            run_passes(f, [Broken()], given, dump=tmp_path)
        (named,) = (n.split("--machine ")[1] for n in failure.value.__notes__ if "--machine " in n)
        assert machine.load(named).text == given.text


@pytest.mark.parametrize(
    "text", ["", "func", "func v9 f {", "program v1 p machine avx2 {", "\x00", "{" * 100_000]
)
def test_ir_text(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.ir"
    file.write_text(text, encoding="utf-8")
    assert_refused(run("opt", str(file), "--passes", ""), capsys, tmp_path)


@pytest.mark.parametrize("passes", ["frob", "dce{x=1}", "dce{", "multi-buffer{max-slots=many}"])
def test_pass_text(passes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.ir"
    body = "  arg x: f32[8] input\n  op y: f32[8] {\n    piece i<8 at i = x[i]\n  }\n  return y\n"
    file.write_text("func v1 f {\n" + body + "}\n", encoding="utf-8")
    assert "E07" in assert_refused(run("opt", str(file), "--passes", passes), capsys, tmp_path)


def test_input_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "double.k"
    file.write_text(GOOD, encoding="utf-8")
    np.save(tmp_path / "x.npy", np.zeros((3, 3), np.float32))
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    for value in ("x", "q=x.npy", f"x={tmp_path}/none.npy", f"x={tmp_path}/bad.npy", f"x={tmp_path}/x.npy"):
        assert_refused(run("run", str(file), "--input", value, "--target", "cpu"), capsys, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "double.k"
    file.write_text(GOOD, encoding="utf-8")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_refused(run("compile", str(file), "-o", str(tmp_path / "locked" / "out")), capsys, tmp_path)
