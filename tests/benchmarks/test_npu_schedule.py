"""The benchmark of schedules: its bars, and that a run goes on where another stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import npu_schedule
from benchmarks.npu_scaling import straight
from benchmarks.npu_schedule import Gap, main
from opc.program.ir import Loop

GAP = Gap("body", 10, 104.0, 100.0, 100.0)


def test_bars_and_going_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ortools")
    monkeypatch.setattr(npu_schedule, "kernel_gaps", lambda seconds: [GAP])
    monkeypatch.setattr(npu_schedule, "SIZES", (100, 200))
    command = ["--graphs", "2", "--seconds", "0.2", "--output", str(tmp_path / "found.jsonl")]
    assert main(command) == 0
    first = capsys.readouterr().out
    for line in ("bar optimum_gap_mean 4.000 3 short", "bar optimum_gap_worst 4.000 10 ok"):
        assert line in first
    for name in ("random_gap_mean", "random_gap_p95", "schedule_seconds_100k"):
        assert f"bar {name} " in first
    monkeypatch.setattr(npu_schedule, "_gap", None)  # nothing is solved again
    assert main(command) == 0
    again = capsys.readouterr().out
    assert again.split("list-schedule on")[0] == first.split("list-schedule on")[0]


def test_a_run_can_stop_early(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(npu_schedule, "kernel_gaps", lambda seconds: [GAP])
    monkeypatch.setattr(npu_schedule, "_gap", lambda *_: GAP)
    with pytest.raises(SystemExit, match="the same command goes on"):
        main(["--graphs", "2", "--stop-after", "-1", "--output", str(tmp_path / "found.jsonl")])


def test_straight_code_has_the_size_asked_for() -> None:
    core = straight(1000).body[0]
    assert isinstance(core, Loop)
    assert len(core.body) == 992
