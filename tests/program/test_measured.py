"""Costs against measured times: predictions, summaries, fits and bad tables. All times here are invented."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from opc import cli
from opc.errors import MachineError
from opc.machine import load, parse
from opc.machine.model import Measured, VectorCost
from opc.program.cost import listed, transfer_cost, vector_cost
from opc.program.fit import figures, fit, halves
from opc.program.measured import Row, compare, predict, read, split

A2 = load("ascend910b")
HEADER = "chip,instruction,types,size,amount,unit,cycles\n"
SAMPLE = Path(__file__).parents[1] / "samples" / "measured.csv"


def vector_rows(name: str, kind: str, cycles: VectorCost) -> list[Row]:
    return [
        Row("910b1", name, (kind, kind), f"repeat={r}", 256.0 * r, vector_cost(cycles, r).occupancy)
        for r in (1, 2, 3, 5, 8, 13, 21, 34)
    ]


def transfers(name: str, latency: float, rate: float, chip: str = "910b1") -> list[Row]:
    sizes = [1024.0 * k for k in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)]
    return [Row(chip, name, ("bytes", "bytes"), "", s, max(latency + s / 90, s / rate)) for s in sizes]


def test_a_fit_finds_the_figures_that_made_the_table() -> None:
    machine = replace(A2, measured=Measured("910b1", A2.clock_mhz))
    rows = vector_rows("vadd", "f32", VectorCost(0, 2, 0, 3)) + vector_rows(
        "vadd", "f16", VectorCost(0, 4, 0, 9, 5)
    )
    rows += transfers("gm_to_l1", 200, 50)
    rows += [Row("910b1", "mmad", ("f16", "f32"), f"16x16x{16 * n}", 0, 3.0 + 2 * n) for n in (1, 2, 4, 9)]
    fitted = fit(rows, machine)
    assert (fitted.cube_issue, fitted.cube_block) == pytest.approx((3, 2))
    plain, short = listed(fitted, "add", "f32", "f32"), listed(fitted, "add", "f16", "f16")
    assert plain is not None
    assert short is not None
    assert (plain.slope, plain.floor, plain.fixed) == (2, 3, 0)
    assert (short.slope, short.fixed) == (4, 5)
    route = fitted.route("copy_in", "gm", "l1")
    assert route is not None
    assert route.bandwidth == pytest.approx(50, rel=0.02)
    assert len(route.curve) <= 6
    errors = compare(rows, fitted)
    assert errors.quantile(0.5) < 0.01
    assert errors.quantile(1.0) < 0.03


def test_a_fit_to_half_of_the_rows_holds_on_the_other_half_and_wild_points_change_nothing() -> None:
    rows = transfers("ub_to_gm", 150, 60) + vector_rows("vexp", "f16", VectorCost(0, 4, 0, 4))
    rows += [Row("910b1", "vexp", ("f16", "f16"), "repeat=55", 256.0 * 55, 16000.0)]
    kept, held = halves(rows)
    assert not set(kept) & set(held)
    errors = compare(held, fit(kept, A2))
    assert errors.quantile(0.5) < 0.02
    assert errors.quantile(0.8) < 0.1


def test_figures_are_text_that_a_machine_file_takes() -> None:
    fitted = fit(read(str(SAMPLE)), A2)
    text = figures(fitted)
    start, end = A2.text.index("[vector.cost]"), A2.text.index("\n[scale]")
    again = parse(A2.text[:start] + text[text.index("[vector.cost]") :] + A2.text[end:], "again.toml")
    assert again.vector_costs == fitted.vector_costs


def test_rows_are_compared_in_the_clock_of_the_measurements() -> None:
    row = Row("910b1", "vadd", ("f32", "f32"), "repeat=10", 2560.0, 20.0)
    cycles = predict(row, A2)
    assert cycles is not None
    error = compare([row], A2).errors[0]
    assert error == pytest.approx(abs(cycles * 1800 / 1850 / 20 - 1))
    assert predict(replace(row, instruction="vgather"), A2) is None
    assert predict(replace(row, instruction="gm_to_moon"), A2) is None


def test_a_single_cube_instruction_takes_its_latency() -> None:
    row = Row("910b1", "mmad", ("f16", "f32"), "16x16x64", 16384.0, 1.0)
    alone = predict(replace(row, chip="910b3"), A2)
    assert alone == pytest.approx(A2.cube_issue + 4 * A2.cube_block + A2.cube_latency)
    assert predict(row, A2) == pytest.approx(A2.cube_issue + 4 * A2.cube_block)
    assert predict(replace(row, size="all"), A2) == predict(row, A2)  # from the number of products


def test_a_curve_is_straight_and_then_at_the_rate() -> None:
    route = A2.route("copy_in", "gm", "l1")
    assert route is not None
    line = replace(route, curve=((100, 10), (200, 30)), bandwidth=10.0)
    arrivals = [transfer_cost(line, size).latency for size in (10, 60, 100, 150, 200, 300)]
    assert arrivals == [1, 6, 10, 20, 30, 40]  # the first never before the bytes have passed
    assert transfer_cost(line, 1000).occupancy == 100


def test_two_engines_share_a_transfer() -> None:
    alone = parse(A2.text.replace("units = 2", "units = 1"), "m.toml")
    one, two = (m.route("copy_in", "gm", "ub") for m in (alone, A2))
    assert one is not None
    assert two is not None
    assert transfer_cost(two, 60000) == transfer_cost(one, 30000)


def test_other_campaigns_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    own, others = split(read(str(SAMPLE)), A2)
    assert {r.chip for r in own} == {"910b1"}
    assert {r.chip for r in others} == {"910b3"}
    assert cli.run(["machine", "check", "ascend910b", "--measured", str(SAMPLE)]) == 0
    out = capsys.readouterr().out
    assert "910b3 gm_to_ub" in out
    assert out.splitlines()[-1].startswith("all 14 rows: median ")
    assert out.splitlines()[-1].endswith(" %, not modelled 1")
    assert cli.run(["machine", "check", "ascend910b", "--measured", str(SAMPLE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["all"]["all"]["not_modelled"] == 1


def test_nothing_modelled_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "m.csv"
    table.write_text(HEADER + "910b1,vgather,uint32 uint32,repeat=4,1024,bytes,50\n", encoding="utf-8")
    for name in ("ascend910b", "avx2"):
        assert cli.run(["machine", "check", name, "--measured", str(table)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "all 0 rows: median - % p95 - %, not modelled 1"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E0612"),
        (HEADER, "E0611"),
        ("chip,instruction,types,size,amount,unit\n1,2,3,4,5,6\n", "E0612"),
        (HEADER + "910b1,vadd,fp16 fp16,repeat=1,256,bytes,n/a\n", "E0613"),
        (HEADER + "910b1,vadd,fp16 fp16,repeat=1,-256,bytes,3\n" * 20, "E0613"),
        (HEADER + "910b1,vadd\n", "E0613"),
        (HEADER + "910b1,vadd,,,inf,,1\n", "E0613"),
        (HEADER + "910b1,vadd,,,256,,3,4,5\n", ""),
        (HEADER + ",,,,1,,1\n", ""),
    ],
)
def test_bad_tables(text: str, code: str, tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text(text, encoding="utf-8")
    if not code:
        assert read(str(table))
        return
    with pytest.raises(MachineError) as caught:
        read(str(table))
    assert caught.value.code == code


def test_unreadable_tables_and_missing_options(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "b.csv"):
        with pytest.raises(MachineError, match="cannot read the measurements"):
            read(str(path))
    assert cli.run(["machine", "check", "ascend910b"]) == 2
    assert cli.run(["machine", "fit"]) == 2
    assert cli.run(["machine", "fit", "ascend910b", "--measured", str(SAMPLE)]) == 0


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("curve = [[1024,", "curve = [[-1024,", "E0606"),
        ("curve = [[1024,", "curve = [[999999,", "E0606"),
        ("curve = [[512, 5.034], [49152, 384.9]]", "curve = [[512, 5.034]]", "E0606"),
        ("add = [10, 2.056, 14, 3.063]", "add = [10, 2]", "E0606"),
        ("add = [10, 2.056, 14, 3.063]", "adz = [10, 2, 3]", "E0609"),
        ('"add.f16"', '"add.f17"', "E0609"),
        ("units = 2", "units = 0", "E0606"),
        ("[limits]", "[limits]\nloads_per_cycle = 0", "E0606"),
        ("cores = 24", "cores = 100000000000000000000000", "E0606"),
        ("bandwidth = 176.9", "bandwidth = 0", "E0606"),
        ("l2_hit = 1.0", "l2_hit = 1.5", "E0606"),
        ("l2_hit = 1.0", "l3_hit = 1.0", "E0609"),
        ("steps = [1, 2, 4, 8]", "steps = [0]", "E0605"),
        ("gather = { fixed = 0,", "gather = {", "E0604"),
    ],
)
def test_bad_figures(old: str, new: str, code: str) -> None:
    assert old in A2.text
    with pytest.raises(MachineError) as caught:
        parse(A2.text.replace(old, new, 1), "m.toml")
    assert caught.value.code == code
