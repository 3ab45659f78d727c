"""stagger, interleave and the spreading scheduler only change the order of instances, never that of dependent ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from opc import machine
from opc.pipeline import Context
from opc.program.ir import Instr, Loop, Program, Stmt, instructions
from opc.program.pipes import pipe_of
from opc.program.text import parse_module, parse_program
from passes.program.hoist_init import HoistInit
from passes.program.interleave import Interleave
from passes.program.list_schedule import ListSchedule
from passes.program.stagger import Stagger
from tests.passes.program.programs import ASCEND, assert_order_only, programs, tile_loops, trace

AMX = machine.load("amx")
WINDOW = replace(ASCEND, window=512)  # the same pipes, fed by one stream
FILETEST = Path(__file__).parents[2] / "filetests" / "program" / "spread-convolution.ir"
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def convolution() -> Program:
    text = FILETEST.read_text(encoding="utf-8").partition("\n")[2].partition("# ====")[0]
    return parse_module(text).run


def ordered(program: Program, m: machine.Machine, size: int = 256) -> Program:
    for p in (Stagger(copies=64), Interleave(size=size), ListSchedule()):
        result = p.run(program, Context(m))
        assert isinstance(result, Program)
        assert_order_only(program, result, m)
        program = result
    return program


@QUICK
@given(programs())
def test_dependent_instances_of_any_program_keep_their_order(program: Program) -> None:
    if len(trace(program, ASCEND, 0, 1)) <= 300:
        ordered(program, WINDOW)


@QUICK
@given(tile_loops())
def test_dependent_instances_of_tile_loops_keep_their_order(program: Program) -> None:
    ordered(program, WINDOW)


@pytest.mark.parametrize("size", [8, 24, 256])
def test_a_convolution_keeps_its_instances_at_any_size(size: int) -> None:
    started = HoistInit().run(convolution(), Context(AMX))
    assert isinstance(started, Program)
    assert ordered(started, AMX, size) != started


def test_machines_with_queues_are_left_alone() -> None:
    program = convolution()
    for p in (Stagger(), Interleave()):
        assert p.run(program, Context(machine.load("avx512"))) is program


def runs(program: Program) -> Counter[str]:
    """The longest run of instructions on one pipe, per pipe, in the innermost bodies that multiply and work."""
    table, longest = program.table(), Counter[str]()
    for body in bodies(program.body):
        stream = [i for i, _ in instructions(tuple(body))]
        pipes = ["" if is_zero(i) else pipe_of(i, table, AMX) for i in stream]
        if not {"cube", "vector"} <= set(pipes):
            continue
        for name, other in (("vector", "cube"), ("cube", "vector")):
            longest[name] = max(longest[name], *(run.count(name) for run in split(pipes, other)))
    return longest


def is_zero(i: Instr) -> bool:
    return i.opcode == "vector.copy" and not i.sources


def split(pipes: list[str], at: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for p in pipes:
        if p == at:
            found.append([])
        else:
            found[-1].append(p)
    return found


def bodies(body: tuple[Stmt, ...]) -> list[list[Stmt]]:
    inner = [b for s in body if isinstance(s, Loop) for b in bodies(s.body)]
    return [[s for s in body if not isinstance(s, Loop)], *inner]


def test_no_pipe_gets_its_work_in_a_burst() -> None:
    started = HoistInit().run(convolution(), Context(AMX))
    assert isinstance(started, Program)
    before, after = runs(started), runs(ordered(started, AMX))
    assert before["vector"] == 0  # all of it in loops of its own
    assert 1 <= after["vector"] <= 4
    assert 1 <= after["cube"] <= 6


SUM = """program v1 sum machine amx {
  buffer x: bf16[2,3,16,32]@gm input
  buffer y: f32[16,16]@gm output
  buffer a: bf16[16,32]@tmm local
  buffer b: bf16[32,16]@tmm local
  buffer c: f32[16,16]@tmm local
  buffer d: f32[16,16]@l2 local
  vector.copy c[m, n] = 1.0 for m<16, n<16
  loop i < 2 {
    loop s < 3 {
      copy_in.copy a[m, k] = x[i, s, m, k] for m<16, k<32
      copy_in.copy b[k, n] = x[i, s, n, k] for k<32, n<16
      cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {init=INIT, chain=192}
    }
  }
  scale.drain d[m, n] = c[m, n] for m<16, n<16
}
"""


@pytest.mark.parametrize(
    ("init", "depth"), [("i + s", 0), ("s", 1), ("i*2 + s", 0), ("i", None), ("s - 1", None)]
)
def test_zeros_stand_before_the_loops_that_sum(init: str, depth: int | None) -> None:
    program = parse_program(SUM.replace("INIT", init))
    result = HoistInit().run(program, Context(AMX))
    assert isinstance(result, Program)
    zeros = [len(loops) for i, loops in instructions(result.body) if i.opcode == "vector.copy"]
    assert zeros == ([0] if depth is None else [0, depth])
    assert (result is program) == (depth is None)


NESTED = """program v1 beside machine amx {
  buffer x: bf16[16,3,16,32]@gm input
  buffer y: f32[4,2,16]@gm output
  buffer a: bf16[16,32]@tmm local
  buffer b: bf16[32,16]@tmm local
  buffer c: f32[16,16]@tmm local
  buffer d: f32[4,2,16]@l2 local
  buffer t: f32[16]@reg local
  vector.copy d[p, q, n] = 1.0 for p<4, q<2, n<16
  loop i < 2 {
    vector.copy c[m, n] = 0.0 for m<16, n<16
    loop s < 16 {
      loop r < 3 {
        copy_in.copy a[m, k] = x[s, r, m, k] for m<16, k<32
        copy_in.copy b[k, n] = x[s, r, n, k] for k<32, n<16
        cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=1536}
      }
    }
    loop p < 4 {
      loop q < 2 {
        copy_in.copy t[n] = d[p, q, n] for n<16
        vector.exp t[n] = t[n] for n<16
        copy_out.copy y[p, q, n] = t[n] for n<16
      }
    }
  }
}
"""


@pytest.mark.parametrize(("size", "most"), [(8, 14), (16, 17), (24, 23), (256, 44)])
def test_loops_on_both_sides_stay_loops_beyond_the_size(size: int, most: int) -> None:
    program = parse_program(NESTED)
    result = Interleave(size=size).run(program, Context(AMX))
    assert isinstance(result, Program)
    assert_order_only(program, result, AMX)
    assert result != program
    assert len(list(instructions(result.body))) <= most
