"""What ``opc compile`` writes and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kernels_dsl
from opc import cli, npu

MATMUL = str(kernels_dsl.path("matmul"))
EMITS = "ast,tensor,program,llvm,asm,obj,so,header"


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_every_artefact_and_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("first", "second"):
        command = ["compile", MATMUL, "--emit", EMITS, "--print-after", "all", "-o", str(tmp_path / name)]
        assert cli.run(command) == 0
    first, second = files(tmp_path / "first"), files(tmp_path / "second")
    endings = {Path(f).suffix for f in first}
    assert {".npu", ".json", ".ast", ".tensor", ".program", ".ll", ".s", ".o", ".so", ".h", ".ir"} <= endings
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_listing_and_trace_read_back(tmp_path: Path) -> None:
    assert cli.run(["compile", MATMUL, "--target", "npu", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "matmul" / "matmul.npu").read_text(encoding="utf-8")
    listing = npu.parse_listing("listing v1" + text.split("listing v1")[-1])
    assert npu.print_listing(listing) in text
    assert json.loads((tmp_path / "matmul" / "trace.json").read_text(encoding="utf-8"))["traceEvents"]


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compile", MATMUL, "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "pass ",
        "list-schedule",
        "class",
        "cube",
        "cycles in source order",
        "MTE2",
        "proved: 0 races",
        "wrote ",
    ):
        assert part in shown


def test_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compile", MATMUL, "-o", str(tmp_path), "--json"]) == 0
    cpu, other = json.loads(capsys.readouterr().out)
    assert cpu["bytes"]["object"] > 0
    assert other["cycles"]["reordered"] <= other["cycles"]["source order"] * 1.01
    assert other["files"] == [str(tmp_path / "matmul" / n) for n in ("matmul.npu", "trace.json")]


def test_a_target_without_the_dtype_does_not_stop_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", MATMUL, "--dtype", "bf16", "-o", str(tmp_path)]
    assert cli.run(command) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("matmul for ")
    assert shown.err.startswith("error[E0620]")
    assert cli.run([*command, "--target", "npu"]) == 1
    assert capsys.readouterr().out == ""


def test_a_machine_file_asks_what_if(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(cli.__file__).parent / "machine" / "ascend910.toml"
    text = shipped.read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("clock_mhz = ", "clock_mhz = 1"), encoding="utf-8")
    assert cli.run(["compile", MATMUL, "--machine", str(tmp_path / "mine.toml"), "-o", str(tmp_path)]) == 0
    assert "matmul for ascend910 (npu" in capsys.readouterr().out


def test_cross_compilation(tmp_path: Path) -> None:
    for name in ("portable", "avx512", "amx"):
        assert (
            cli.run(["compile", MATMUL, "--machine", name, "--emit", "asm", "-o", str(tmp_path / name)]) == 0
        )
        assert (tmp_path / name / "matmul" / "matmul.s").stat().st_size > 0


def test_another_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(Path(__file__).resolve().parents[2] / "kernels_dsl/softmax.k")
    command = ["compile", source, "--emit", "obj", "-o", str(tmp_path), "--triple"]
    assert cli.run([*command, "aarch64-linux-gnu"]) == 0
    machine = (tmp_path / "softmax/softmax.o").read_bytes()[18:20]
    assert int.from_bytes(machine, "little") == 183, "EM_AARCH64"
    assert cli.run([*command, "aarch64-linux-gnu", "--machine", "avx2"]) == 1
    assert "E0955" in capsys.readouterr().err
