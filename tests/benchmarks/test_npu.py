"""The NPU benchmark: its bound counted by hand, its bars, and one small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import npu
from benchmarks.npu_bound import Bound, bound
from benchmarks.npu_modes import MODES, Measured
from benchmarks.npu_results import Row, bars
from benchmarks.problems.npu import PROBLEMS
from opc import machine as machines
from opc.dtypes import DType
from opc.numerics import FAST


def test_the_bound_counts_each_pipe() -> None:
    machine = machines.load("ascend910")
    # 256x56x56->64 1x1/1: 3136 rows, one image a core.
    found = bound(PROBLEMS["c05"], machine, DType.F16)
    assert found.pipes["M"] == 196 * 16 * 4 == found.cube
    assert found.pipes["MTE2"] == pytest.approx((256 * 56 * 56 + 256 * 64) * 2 / 110)
    assert found.pipes["MTE3"] == 3136 * 64 * 2 / 64
    # All 4 blocks of columns fit beside 32 of rows: A goes to the cube once, B once for each of 7 tiles.
    assert found.tile == (32, 4)
    assert found.pipes["MTE1"] == 196 * 16 * 1 + 7 * 4 * 16 * 2
    assert found.cycles == max(found.pipes.values())
    assert found.attainable > found.cycles


def test_the_bound_counts_work_on_the_input_once() -> None:
    machine = machines.load("ascend910")
    plain, double = (bound(PROBLEMS[name], machine, DType.F16).pipes for name in ("c03", "c03t"))
    assert plain["M"] == double["M"]
    # Sub, mul and add take two cycles per 64 elements, both conversions one, ReLU at most one; and moments seven.
    assert double["V"] >= 64 * 56 * 56 / 64 * (3 * 2 + 2) + 64 * 56 * 56 / 64 * 7
    assert double["MTE3"] > plain["MTE3"]


def test_the_bound_under_the_licence_is_that_of_the_folded_epilogue() -> None:
    machine = machines.load("ascend910")
    found = bound(PROBLEMS["c04"], machine, DType.F16, licensed=True)
    # Sums start from f32 values and are drained as such; nothing else is left to the vector pipe.
    assert found.pipes["V"] == 2 * 3136 * 256 * 4 / 256
    assert found.cycles == found.pipes["MTE3"] == 3136 * 256 * 2 / 64
    split = bound(PROBLEMS["c04"], machines.load("ascend910b"), DType.F16, licensed=True)
    assert 0 < split.pipes["V"] < bound(PROBLEMS["c04"], machines.load("ascend910b"), DType.F16).pipes["V"]


def test_the_bound_under_the_licence_sums_up_on_the_pipe_that_has_time() -> None:
    machine = machines.load("ascend910")
    by_cube, by_vector = (bound(PROBLEMS[n], machine, DType.F16, licensed=True) for n in ("c03t", "c11t"))
    # Convert, multiply, add, convert, clip; and the drain, which converts.
    assert by_cube.pipes["V"] == 56 * 56 * 64 / 256 * (4 + 8 + 8 + 4 + 2) + 56 * 56 * 64 * 4 / 256
    assert by_cube.pipes["M"] == 56 * 56 // 16 * 4 * (9 * 4 + 2)
    # Squares would only add to the cube's work.
    assert by_vector.cycles == by_vector.pipes["M"] == by_vector.cube
    assert by_vector.pipes["V"] == 28 * 28 * 128 / 256 * (26 + 4 + 28 + 4)


def test_the_bound_under_the_licence_scales_inputs_on_the_pipe_that_has_time() -> None:
    found = bound(PROBLEMS["c10t"], machines.load("ascend910"), DType.F16, licensed=True)
    # The drain of what is made, and of the result.
    assert found.pipes["V"] == 28 * 28 * 512 * 4 / 256 + 28 * 28 * 128 * 4 / 256
    assert found.pipes["M"] == 28 * 28 / 16 * (8 * (32 + 2) + 32 * 3)


def test_separate_operators_keep_their_weights_under_the_licence() -> None:
    for mode in MODES.values():
        folds = {p.name: vars_of(p) for p in mode.passes("tensor")}["fold-affine"]["weights"]
        assert folds == (mode.name not in ("a", "a2"))


def test_every_mode_is_a_choice_of_passes() -> None:
    fused = {name: {p.name: p for p in MODES[name].passes("tensor")}["fuse"] for name in MODES}
    assert [name for name, p in fused.items() if not vars_of(p)["enabled"]] == ["a", "a2"]
    steps = {name: [p.name for p in MODES[name].passes("program")] for name in MODES}
    assert "list-schedule" in steps["d"]
    assert "pipeline" not in steps["c"]


def vars_of(p: object) -> dict[str, object]:
    return {name: getattr(p, name) for name in type(p).__dataclass_fields__}  # type: ignore[attr-defined]


def test_bars_say_what_is_short() -> None:
    least = Bound({"M": 90.0, "V": 50.0}, 90.0, (1, 1), 10.0)
    modes = {
        m: Measured(cycles, {"M": 90.0}, 1) for m, cycles in {"a": 400, "a2": 120, "c": 110, "d": 105}.items()
    }
    faster = {m: Measured(cycles, {"M": 90.0}, 1) for m, cycles in {"a": 380, "a2": 110, "d": 100}.items()}
    rows = [Row("c00", "shape", 1, least, modes), Row("c00", "shape", 1, least, faster, {}, FAST)]
    lines = bars(rows)
    assert "  (a)/(d) without the licence, geometric mean: 3.810" in lines
    both = "(a2)/(d) with the licence for both, separate operators as x * A + B"
    assert f"  {both}, geometric mean: 1.100" in lines
    assert "  c00+: 4.000" in lines
    assert [line for line in lines if line.startswith("bar ")] == [
        "bar total_gain 4.000 3 ok",
        "bar fusion_gain 1.200 1.4 short",
        "bar order_gain n/a 1.3 n/a",
        "bar busiest_pipe_geomean 1.025 1.1 ok",
        "bar busiest_pipe_worst 1.050 1.25 ok",
    ]


def test_a_run_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "npu.json"
    assert npu.main(["--quick", "--shapes", "c22", "--numerics", "fast", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "under --numerics fast" in printed
    assert "bar fusion_gain " in printed
    found = json.loads(output.read_text(encoding="utf-8"))
    row = found["machines"]["ascend910"][0]
    assert set(row["modes"]) == set(MODES)
    assert row["over_bound"] >= 1
    assert set(npu.QUICK) < set(PROBLEMS)
    assert " ".join(npu.QUICK) in (npu.__doc__ or "")
