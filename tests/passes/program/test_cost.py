"""Cycles of single instructions from the figures of the machine file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opc.machine import load, parse
from opc.program.cost import Window, cycles, window_of
from opc.program.estimate import Estimator
from opc.program.ir import Buffer, Instr, instructions
from opc.program.text import parse_program
from tests.passes.program.programs import ASCEND

TEXT = """program v1 costs machine ascend910 {
  buffer x: f16[64,64]@gm input
  buffer a: f16[64,64]@l1 local
  buffer a0: f16[16,32]@l0a local
  buffer b0: f16[32,32]@l0b local
  buffer c0: f32[16,32]@l0c local
  buffer t: f32[16,64]@ub local
  parallel core < 1 {
    copy_in.copy a[i, j] = x[i, j] for i<64, j<64
    copy_in.copy a[i, j] = x[i, j] for i<64, j<2
    cube.mma c0[m, n] = a0[m, k], b0[k, n] for m<16, n<32, k<32 {init=0}
    vector.add t[i, j] = t[i, j], t[i, j] for i<16, j<64
    vector.add t[i, j] = t[i, j], t[i, j] for i<16, j<8
  }
}
"""


def test_cycles_follow_the_machine_file() -> None:
    program = parse_program(TEXT)
    whole, narrow, mma, dense, sparse = (
        cycles(i, program.table(), ASCEND) for i, _ in instructions(program.body)
    )
    route = ASCEND.route("copy_in", "gm", "l1")
    assert route is not None
    assert whole.occupancy == pytest.approx(64 * 64 * 2 / route.bandwidth)
    assert whole.latency == pytest.approx(whole.occupancy + route.latency)
    assert narrow.occupancy == pytest.approx(64 * route.burst / route.bandwidth)  # each run pays a burst
    assert (mma.occupancy, mma.latency) == (2 + 4, 2 + 4 + 23)
    slope = ASCEND.vector_costs["add"].slope
    assert dense.occupancy == sparse.occupancy == slope * 16  # one repeat a row, full or not


A2 = load("ascend910b")
SLIDING = """program v1 slides machine ascend910b {
  buffer a: f16[58,114,16]@l1 local
  buffer a0: f16[448,16]@l0a local
  parallel core < 1 {
    copy_in.copy a0[28*p + q, c] = a[SH*p, SW*q, c] for p<ROWS, q<28, c<16
  }
}
"""


def sliding(height: int, width: int, rows: int) -> tuple[Instr, dict[str, Buffer]]:
    text = SLIDING.replace("SH", str(height)).replace("SW", str(width)).replace("ROWS", str(rows))
    program = parse_program(text)
    return next(i for i, _ in instructions(program.body)), program.table()


@pytest.mark.parametrize(
    ("step", "rows", "fractals"),  # cycles per fractal are halves of these, times the plain two
    [
        (1, 1, [1, 1]),
        (2, 1, [2, 2]),
        (4, 1, [4, 4]),
        (3, 1, [8, 8]),  # no power of two: the slowest there is
        (1, 2, [1, 2, 1, 1]),  # the second of four fractals takes columns of two image rows
        (2, 4, [2, 3, 2, 3, 2, 3, 2]),
    ],
)
def test_a_window_is_loaded_as_slowly_as_its_columns_lie(step: int, rows: int, fractals: list[float]) -> None:
    instr, buffers = sliding(step, step, rows)
    route = A2.route("copy_in", "l1", "l0a")
    assert route is not None
    size = 28 * rows * 32
    plain = size / route.bandwidth
    factor = sum(fractals) / len(fractals)
    assert cycles(instr, buffers, A2).occupancy == pytest.approx(plain * factor)
    expected = None if (step, rows) == (1, 1) else Window(step, 28, rows)
    assert window_of(instr, buffers, A2) == expected


def test_image_rows_that_touch_are_one_row() -> None:
    text = SLIDING.replace("58,114,16", "16,28,16").replace("SH*", "").replace("SW*", "").replace("ROWS", "4")
    program = parse_program(text)
    instr = next(i for i, _ in instructions(program.body))
    assert window_of(instr, program.table(), A2) is None


def test_types_have_costs_of_their_own() -> None:
    def busy(line: str) -> float:
        text = f"""program v1 kinds machine ascend910b {{
  buffer h: f16[4096]@ub local
  buffer f: f32[4096]@ub local
  parallel core < 1 {{
    {line} for i<4096
  }}
}}
"""
        program = parse_program(text)
        return next(cycles(i, program.table(), A2).occupancy for i, _ in instructions(program.body))

    costs = A2.vector_costs
    assert busy("vector.exp h[i] = h[i]") == costs["exp.f16"].slope * 16  # 32 repeats on two units
    assert busy("vector.exp f[i] = f[i]") == costs["exp"].slope * 32
    assert busy("vector.add f[i] = f[i], f[i]") == costs["add"].slope * 32
    assert busy("vector.add f[i] = f[i], 1.5") == costs["adds"].slope * 32
    narrowing = costs["convert.f32.f16"]
    assert busy("vector.copy h[i] = f[i]") == narrowing.slope * 32 + narrowing.fixed
    assert busy("vector.copy f[i] = 0.0") == costs["fill.f32"].slope * 32
    assert busy("vector.copy f[i] = f[i]") == costs["copy"].slope * 32
    assert busy("vector.lt h[i] = h[i], h[i]") == costs["compare.f16"].slope * 16


def test_cores_share_memory_and_misses_cost() -> None:
    def route(**memory: float) -> tuple[float, float]:
        lines = "".join(f"{k} = {v}\n" for k, v in memory.items())
        text = ASCEND.text[: ASCEND.text.index("[memory]")] + f"[memory]\n{lines}"
        found = parse(text, "m.toml").route("copy_in", "gm", "l1")
        assert found is not None
        return found.bandwidth, found.latency

    alone, latency = route()
    assert route(l2_bandwidth=32 * alone) == (alone, latency)
    assert route(l2_bandwidth=8 * alone) == pytest.approx((alone / 4, latency))
    assert route(l2_hit=0.5, bandwidth=8 * alone, miss_latency=100) == pytest.approx(
        (alone / 2.5, latency + 50)
    )
    inner = ASCEND.route("copy_in", "l1", "l0a")
    assert (
        parse(ASCEND.text.replace("l2_hit = 1.0", "l2_hit = 0.1"), "m.toml").route("copy_in", "l1", "l0a")
        == inner
    )


def test_a_loop_runs_at_the_rate_of_its_slowest_pipe() -> None:
    text = TEXT.replace("    copy_in.copy a[i, j] = x[i, j] for i<64, j<64\n", "").replace(
        "    vector.add", "    #", 2
    )
    program = parse_program(text)
    machine = replace(ASCEND, dispatch_cycles=0.0)
    unit = Estimator(program, machine).unit(program.body[0], ())
    slowest = max(cycles(i, program.table(), machine).latency for i, _ in instructions(program.body))
    assert unit.latency == pytest.approx(slowest)
