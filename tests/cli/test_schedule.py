"""What ``opc schedule`` prints."""

from __future__ import annotations

import json
import sys

import pytest

import kernels_dsl
from opc import cli

CONV = str(kernels_dsl.path("conv_bn_relu"))
SOFTMAX = str(kernels_dsl.path("softmax"))


def test_bodies_bounds_and_pressure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schedule", CONV, "--layout", "nhwc"]) == 0
    shown = capsys.readouterr().out
    for part in ("conv_bn_relu for ascend910", "busiest pipe", "longest path", "p_o<", "event ids", "l0c"):
        assert part in shown


def test_the_same_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schedule", CONV, "--layout", "nhwc", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["bodies"]
    for body in report["bodies"]:
        least = max(body["bounds"]["longest path"], *body["bounds"]["pipes"].values())
        assert least <= body["makespan"]["this order"] + 1e-6
        assert body["cycles"]["this order"] <= body["cycles"]["source order"] + 1e-6
    assert report["loops"]
    for loop in report["loops"]:
        assert (loop["modulo schedule"] or 1e9) >= max(loop["ResMII"], loop["RecMII"]) * 0.99
    assert {s["name"] for s in report["pressure"]["spaces"]} >= {"l1", "ub"}


def test_the_optimum(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ortools")
    assert cli.run(["schedule", SOFTMAX, "--optimal", "--seconds", "5"]) == 0
    shown = capsys.readouterr().out
    assert "CP-SAT" in shown
    assert "closed 1 of 1" in shown


def test_the_shortest_interval(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ortools")
    assert cli.run(["schedule", CONV, "--optimal", "--seconds", "5", "--layout", "nhwc"]) == 0
    assert "none below" in capsys.readouterr().out


def test_the_solver_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    assert cli.run(["schedule", SOFTMAX, "--optimal"]) == 1
    error = capsys.readouterr().err
    assert "E0932" in error
    assert "pip install" in error


def test_a_cpu_has_no_queues(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schedule", SOFTMAX, "--machine", "avx2"]) == 1
    assert "E0926" in capsys.readouterr().err


def test_seconds_are_positive(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schedule", SOFTMAX, "--seconds", "0"]) == 2
    assert "is not a time" in capsys.readouterr().err
