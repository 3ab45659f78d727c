"""Cycles of single instructions from the figures of the machine file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opc.program.cost import cycles
from opc.program.estimate import Estimator
from opc.program.ir import instructions
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


def test_a_loop_runs_at_the_rate_of_its_slowest_pipe() -> None:
    text = TEXT.replace("    copy_in.copy a[i, j] = x[i, j] for i<64, j<64\n", "").replace(
        "    vector.add", "    #", 2
    )
    program = parse_program(text)
    machine = replace(ASCEND, dispatch_cycles=0.0)
    unit = Estimator(program, machine).unit(program.body[0], ())
    slowest = max(cycles(i, program.table(), machine).latency for i, _ in instructions(program.body))
    assert unit.latency == pytest.approx(slowest)
