"""The pure parts of the benchmarks, and one tiny run; nothing here depends on how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bars, engine
from benchmarks.bars import Bar, Situation, conv_bars
from benchmarks.case import Case, problem
from benchmarks.harness import typical
from benchmarks.problems.resnet50 import QUICK, RESNET50
from benchmarks.results import Results, Sample, geometric_mean, paired, ratio

ROOT = Path(__file__).resolve().parents[2]
C03 = Case("conv", "c03", "f32", 1, 1)


def sample(case: Case, name: str, *rounds: float, process: int = 0) -> Sample:
    return Sample(process, case, name, rounds, min(rounds), 3 * len(rounds), 0.0)


def test_the_network_has_53_convolutions_of_8_17_gflop() -> None:
    assert len(RESNET50) == 23
    assert sum(c.count for c in RESNET50.values()) == 53
    assert sum(c.count * c.flops(1) for c in RESNET50.values()) == pytest.approx(8.174e9, rel=1e-3)
    assert {c.out for c in RESNET50.values()} == {112, 56, 28, 14, 7}
    assert set(QUICK) < set(RESNET50)


def test_a_problem_has_the_sizes_of_its_shape() -> None:
    what = problem(Case("conv", "c19", "bf16", 8, 2))
    assert what.flops == 2 * 8 * 49 * 512 * 512 * 9
    assert what.moved == 2 * (8 * 512 * (14 * 14 + 7 * 7) + 512 * 512 * 9)
    assert what.sizes["stride"] == 2
    assert what.sizes["pad"] == 1


def test_runs_that_lost_their_core_do_not_count_while_others_remain() -> None:
    assert typical([(1.0, True), (9.0, False), (3.0, True)]) == 2.0
    assert typical([(4.0, False), (2.0, False)]) == 2.0


def test_ratios_pair_runs_and_take_medians() -> None:
    assert paired((2.0, 8.0, 3.0), (1.0, 2.0, 3.0)) == 2.0
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None
    found = Results(samples=[sample(C03, "opc", 1.0, process=p) for p in range(3)])
    found.samples += [sample(C03, "onednn", t, process=p) for p, t in enumerate((1.0, 5.0, 2.0))]
    assert found.speedup(C03, "opc", "onednn") == 2.0
    assert found.speedup(C03, "opc", "openvino") is None


def test_shortest_runs_decide_where_most_were_disturbed() -> None:
    ours, theirs = Sample(0, C03, "opc", (2.0,), 1.0, 3, 0.0), Sample(0, C03, "onednn", (2.0,), 1.5, 3, 0.9)
    assert ratio(theirs, ours) == 1.5
    assert ratio(ours, ours) == 1.0


def test_json_comes_back(tmp_path: Path) -> None:
    found = Results(settings={"amx": False}, engines={"opc": "0"}, missing={"openvino": "not installed"})
    found.samples.append(sample(C03, "opc", 1.0, 2.0))
    found.write(tmp_path / "a.json")
    again = Results.read(tmp_path / "a.json")
    assert again == found
    again.merge(found)
    assert [s.process for s in again.samples] == [0, 1]
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(json.loads(text) | {"format": 0}), encoding="utf-8")
    with pytest.raises(ValueError, match="another version"):
        Results.read(tmp_path / "b.json")


def test_a_bar_shows_its_worst_case_relative_to_its_target() -> None:
    bar = Bar(
        "name", 1.6, (Situation("one", 1.6, 1.6), Situation("two", 1.5, 1.45), Situation("three", 1.4, 1.45))
    )
    assert bar.lines() == [
        "  one: 1.600 (target 1.6)",
        "  two: 1.500 (target 1.45)",
        "  three: 1.400 (target 1.45)",
        "bar name 1.400 1.45 short",
    ]
    assert Bar("none", 2.0).lines() == ["bar none n/a 2 n/a"]
    assert Bar("unfit", 2.0, bar.situations, "no AMX", "n/a").lines()[-1] == "bar unfit 1.400 1.45 n/a"


def by_name(found: Results) -> dict[str, Bar]:
    return {bar.name: bar for bar in conv_bars(found)}


def test_bars_compare_with_the_fastest_peer_of_each_cell() -> None:
    found = Results(
        samples=[sample(C03, "opc", 1.0), sample(C03, "onednn", 1.5), sample(C03, "openvino", 1.2)]
    )
    found.samples += [sample(C03, "torch-eager", 0.5), sample(C03, "torch-compile", 3.0)]
    shown = {name: bar.lines()[-1] for name, bar in by_name(found).items()}
    assert shown["f32_direct"] == "bar f32_direct 1.200 1 ok"
    assert shown["f32_vs_best_peer"] == "bar f32_vs_best_peer 1.200 1.15 ok"
    assert shown["f32_vs_user_call"] == "bar f32_vs_user_call 3.000 1.1 ok"
    assert shown["worst_shape"] == "bar worst_shape 1.200 0.85 ok"
    assert shown["bf16_vs_best_peer"] == "bar bf16_vs_best_peer n/a 1.6 n/a"


def test_the_licence_counts_where_it_may_and_the_tuned_kernel_before_the_untuned() -> None:
    found = Results(engines={"opc-fast": "1"})
    found.samples = [sample(C03, "opc", 2.0), sample(C03, "opc-tuned", 1.0), sample(C03, "opc-fast", 0.5)]
    found.samples.append(sample(C03, "onednn", 1.0))
    values = {name: bar.worst and bar.worst.value for name, bar in by_name(found).items()}
    assert values["f32_direct"] == 1.0
    assert values["f32_vs_best_peer"] == 2.0


@pytest.mark.parametrize(("slow", "least", "verdict"), [(5, 0.9, "ok"), (6, 0.9, "short"), (1, 0.8, "short")])
def test_few_cells_may_be_a_little_slow_and_none_much(slow: int, least: float, verdict: str) -> None:
    found = Results()
    for number, name in enumerate(RESNET50):
        case = Case("conv", name, "f32", 1, 1)
        found.samples += [sample(case, "opc", 1.0), sample(case, "onednn", least if number < slow else 1.0)]
    bar = by_name(found)["worst_shape"]
    assert bar.verdict == verdict
    assert len(bar.situations) == slow
    assert bar.worst is not None
    assert bar.worst.value == least


def test_without_amx_its_bars_have_values_and_no_verdict() -> None:
    case = Case("conv", "c03", "bf16", 1, 1)
    found = Results(settings={"amx": False}, samples=[sample(case, "opc", 1.0), sample(case, "onednn", 2.0)])
    assert by_name(found)["bf16_vs_best_peer"].lines()[-1] == "bar bf16_vs_best_peer 2.000 1.6 n/a"
    found.settings["amx"] = True
    assert by_name(found)["bf16_vs_best_peer"].verdict == "ok"


def test_an_engine_whose_package_is_missing_says_so() -> None:
    entry = engine.Entry("x", "nowhere:X", ("no_such_package",))
    assert entry.missing() == "no_such_package is not installed"
    assert set(bars.PEERS) < set(engine.ENGINES)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/conv.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_one_shape_on_opc_alone(tmp_path: Path) -> None:
    output = tmp_path / "conv.json"
    cell = ["--shapes", "c02", "--dtype", "f32", "--batch", "1", "--threads", "1", "--processes", "1"]
    done = run(*cell, "--engines", "opc", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "f32, batch 1, 1 thread(s)" in done.stdout
    assert "bar f32_direct n/a 1 n/a" in done.stdout
    assert Results.read(output).checked["opc"] <= 1
    again = run("--from", str(output))
    assert again.stdout == done.stdout


def test_unknown_names_are_refused() -> None:
    done = run("--shapes", "c99")
    assert done.returncode == 2
    assert "unknown: c99" in done.stderr


def test_cold_weights_are_measured_too(tmp_path: Path) -> None:
    cell = ["--shapes", "c22", "--dtype", "bf16", "--batch", "1", "--threads", "1", "--processes", "1"]
    done = run(
        *cell, "--engines", "opc", "--cold-weights", "--passive", "--output", str(tmp_path / "cold.json")
    )
    assert done.returncode == 0, done.stderr
    assert "caches: weights and result cold, input warm" in done.stdout
