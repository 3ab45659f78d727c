"""What the reports say of memories and event ids that are too small."""

from __future__ import annotations

from pathlib import Path

import pytest

import kernels_dsl
from opc import cli, machine
from opc.program.demand import Demand, Ids, Slots, Space
from opc.report.schedule_text import demand_text, shortages


def test_what_did_not_fit() -> None:
    demand = Demand(
        (Space("ub", 100, 128, 60),),
        (Slots("t", "ub", 2, 1, 60), Slots("u", "ub", 2, 2, 20)),
        (Ids("V", "MTE3", 6, 4, 4), Ids("MTE2", "V", 2, 4, 2), Ids("M", "V", None, 4, 1)),
        1,
    )
    slots, ids, barriers = shortages(demand)
    assert "'t' has 1 of 2 slots of 60 bytes" in slots
    assert "'ub' would be 60 bytes too small" in slots
    assert "V -> MTE3 has 4 of 6 event ids" in ids
    assert "1 barriers" in barriers
    assert "78%" in demand_text(demand)


def test_fewer_event_ids_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = machine.load("ascend910").text
    assert "event_ids = 4" in text
    few = tmp_path / "few.toml"
    few.write_text(text.replace("event_ids = 4", "event_ids = 1"), encoding="utf-8")
    source = str(kernels_dsl.path("conv_bn_relu"))
    assert cli.run(["compile", source, "--layout", "nhwc", "--machine", str(few), "-o", str(tmp_path)]) == 0
    assert "has 1 of" in capsys.readouterr().out
