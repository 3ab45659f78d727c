"""``opc sweep`` and ``opc timeline``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import kernels_dsl
from opc import cli
from opc.errors import MachineError
from opc.machine import load
from opc.machine.vary import varied

MATMUL = str(kernels_dsl.path("matmul"))
DRAWS = importlib.util.find_spec("matplotlib") is not None


def test_figures_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sweep", MATMUL, "--vary", "cube.latency=0,500", "--vary", "N=32,64", "--json"]
    assert cli.run(arguments) == 0
    points = json.loads(capsys.readouterr().out)["matmul"]
    assert [(p["cube.latency"], p["N"]) for p in points] == [
        ("0", "32"),
        ("0", "64"),
        ("500", "32"),
        ("500", "64"),
    ]
    assert points[2]["cycles"] > points[0]["cycles"]
    assert points[0]["busiest"]


def test_a_point_that_cannot_be_built_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["sweep", MATMUL, "--vary", "l0a.capacity=0.25K,64K"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any("0.25K" in line and "E06" in line for line in shown)
    assert any("64K" in line and "1.00x" in line for line in shown)


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["--vary", "l1.size=1"], 1, "E0614"),
        (["--vary", "cores=0,1"], 1, "E0606"),
        (["--vary", "cores=1,2", "--machine", "avx2"], 1, "E0933"),
        (["--vary", "cores=" + ",".join(map(str, range(1, 300)))], 1, "E0935"),
        (["--vary", "cores=two"], 2, "not a number"),
        (["--vary", "cores"], 2, "not FIGURE=VALUE"),
    ],
)
def test_bad_requests(
    arguments: list[str], status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = cli.run(["sweep", MATMUL, *arguments])
    except SystemExit as end:
        found = int(str(end.code))
    assert found == status
    assert code in capsys.readouterr().err


@pytest.mark.skipif(not DRAWS, reason="no matplotlib here")
def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.svg"
    assert cli.run(["sweep", MATMUL, "--vary", "cores=1,4", "--plot", str(path)]) == 0
    assert "<svg" in path.read_text(encoding="utf-8")
    assert cli.run(["sweep", MATMUL, "--vary", "cores=1", "--plot", str(tmp_path / "sweep.k")]) == 1
    assert "E0934" in capsys.readouterr().err
    assert not (tmp_path / "sweep.k").exists()


def test_routes_go_by_their_ends() -> None:
    machine = varied(load("ascend910"), {"gm.ub.bandwidth": 11, "cores": 4, "l1.capacity": 65536})
    route = machine.route("copy_in", "gm", "ub")
    assert route is not None
    assert (route.bandwidth, machine.cores, machine.spaces["l1"].capacity) == (11, 4, 65536)
    with pytest.raises(MachineError, match="did you mean"):
        varied(machine, {"l1.capcity": 1})


def test_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["timeline", MATMUL, "--width", "60"]) == 0
    shown = capsys.readouterr().out
    for part in ("cycles in source order", "reordered", "CUBE", "MTE1", "waits at"):
        assert part in shown
    assert cli.run(["timeline", MATMUL, "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["reordered"]["cycles"] > 0
