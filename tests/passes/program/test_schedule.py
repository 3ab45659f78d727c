"""pipeline, unroll and list-schedule only change the order of instances, and never that of dependent ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from opc import npu
from opc.pipeline import Context
from opc.program.estimate import Estimator
from opc.program.ir import Loop, Program
from opc.program.text import parse_program
from passes.program._judge import judged
from passes.program.insert_sync import InsertSync
from passes.program.list_schedule import ListSchedule
from passes.program.pipeline import Pipeline
from passes.program.unroll import Unroll
from tests.npu.samples import place
from tests.passes.program.programs import ASCEND, assert_order_only, programs, tile_loops, trace

SAMPLES = Path(__file__).parents[2] / "samples"
FORCE = -1e9  # take the new order whatever the model says

# The vector pipe has two jobs per tile, with a trip through memory between them.
TWO_ROLES = """program v1 two_roles machine ascend910 {
  buffer x: f32[16,1024]@gm input
  buffer z: f32[16,1024]@gm workspace at 0
  buffer y: f32[16,1024]@gm output
  buffer a: f32[1024]@ub local slots 2
  buffer b: f32[1024]@ub local slots 2
  buffer c: f32[1024]@ub local slots 2
  buffer d: f32[1024]@ub local slots 2
  parallel core < 1 {
    loop i < 16 {
      copy_in.copy a{i}[j] = x[i, j] for j<1024
      vector.exp b{i}[j] = a{i}[j] for j<1024
      copy_out.copy z[i, j] = b{i}[j] for j<1024
      copy_in.copy c{i}[j] = z[i, j] for j<1024
      vector.exp d{i}[j] = c{i}[j] for j<1024
      copy_out.copy y[i, j] = d{i}[j] for j<1024
    }
  }
}
"""


def run(pass_: ListSchedule | Pipeline | Unroll | InsertSync, program: Program) -> Program:
    result = pass_.run(program, Context(ASCEND))
    assert isinstance(result, Program)
    return result


def time_of(program: Program) -> float:
    return sum(Estimator(program, ASCEND).unit(s, ()).latency for s in program.body)


@settings(max_examples=40, deadline=None)
@given(programs())
def test_list_schedule_keeps_dependent_instances_in_order(program: Program) -> None:
    if len(trace(program, ASCEND, 0, 1)) <= 300:
        assert_order_only(program, run(ListSchedule(gain=FORCE), program))
        assert_order_only(program, run(ListSchedule(), program))


@settings(max_examples=40, deadline=None)
@given(tile_loops())
def test_pipeline_keeps_dependent_instances_in_order(program: Program) -> None:
    result = run(Pipeline(gain=FORCE), program)
    assert_order_only(program, result)
    assert_order_only(program, run(ListSchedule(gain=FORCE), result))


@settings(max_examples=25, deadline=None)
@given(programs())
def test_unroll_keeps_dependent_instances_in_order(program: Program) -> None:
    assert_order_only(program, run(Unroll(size=300, gain=FORCE), program))


def test_what_is_played_is_what_the_simulator_finds() -> None:
    (planned,) = [parse_program(p.read_text()) for p in SAMPLES.glob("conv_bn_relu.ascend910.program")]
    program = place(planned, ASCEND)
    (loop,) = program.body
    found = judged(loop, program, ASCEND)
    listing = npu.emit(run(InsertSync(), program), ASCEND)
    assert found is not None
    assert found.cycles == pytest.approx(npu.time(listing, ASCEND).cycles, rel=0.01)


def test_long_code_stays_a_loop() -> None:
    program = parse_program(TWO_ROLES)
    assert run(Unroll(size=95, gain=FORCE), program) is program


@settings(max_examples=30, deadline=None)
@given(programs())
def test_list_schedule_is_never_worse_by_its_own_model(program: Program) -> None:
    assert time_of(run(ListSchedule(), program)) <= time_of(program) * (1 + 1e-9)


def test_two_roles_of_a_pipe_pay() -> None:
    program = parse_program(TWO_ROLES)
    result = run(Pipeline(), program)
    assert time_of(result) < 0.8 * time_of(program)
    assert_order_only(program, result)


def test_one_slot_leaves_nothing_to_overlap() -> None:
    program = parse_program(TWO_ROLES.replace("slots 2", "at 0"))
    assert run(Pipeline(), program) is program


def test_a_short_loop_stays() -> None:
    program = parse_program(TWO_ROLES.replace("i < 16", "i < 1"))
    assert run(Pipeline(gain=FORCE), program) is program


def test_the_text_stays_small() -> None:
    program = parse_program(TWO_ROLES)
    assert run(Pipeline(size=11), program) is program


def test_synchronised_programs_keep_their_order() -> None:
    program = run(InsertSync(), parse_program(TWO_ROLES))
    assert run(Pipeline(), program) is program
    assert run(ListSchedule(), program) is program


def test_samples() -> None:
    for path in sorted(SAMPLES.glob("*.program")):
        program = parse_program(path.read_text())
        result = run(ListSchedule(gain=FORCE), run(Pipeline(gain=FORCE), program))
        assert isinstance(result.body[0], Loop)
        if program.machine == "ascend910":
            assert_order_only(program, result)
