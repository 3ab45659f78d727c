"""Live ranges: positions by hand, and against brute force on random programs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.program.interpret import trace
from opc.program.ir import Access, Instr, Loop, Program, Stmt
from opc.program.liveness import live_together, liveness, slot_name, split_slots
from opc.program.text import parse_program
from passes.program._stages import peel
from tests.strategies.program import programs

HEADER = """program v1 lives machine ascend910 {
  buffer x: f16[8,64]@gm input
  buffer y: f16[8,64]@gm output
  buffer a: f16[64]@ub local
  buffer b: f16[64]@ub local
"""


def ranges(body: str) -> dict[str, list[tuple[int, int]]]:
    found = liveness(parse_program(HEADER + body + "}\n")).ranges
    return {name: [(r.first, r.last) for r in found[name]] for name in ("a", "b")}


def test_straight_line_has_one_life_per_overwrite() -> None:
    body = """  copy_in.copy a[j] = x[0, j] for j<64
  vector.exp b[j] = a[j] for j<64
  copy_out.copy y[0, j] = b[j] for j<64
  copy_in.copy a[j] = x[1, j] for j<64
  vector.exp b[j] = a[j] for j<64
  copy_out.copy y[1, j] = b[j] for j<64
"""
    assert ranges(body) == {"a": [(0, 1), (3, 4)], "b": [(1, 2), (4, 5)]}


def test_halves_make_one_life() -> None:
    body = """  loop i < 2 {
    copy_in.copy a[j] = x[i, j] for j<32
    copy_in.copy a[j + 32] = x[i, j + 32] for j<32
    copy_out.copy y[i, j] = a[j] for j<64
    copy_in.copy b[j] = x[i, j] for j<64
    copy_out.copy y[i + 2, j] = b[j] for j<64
  }
"""
    assert ranges(body) == {"a": [(0, 2)], "b": [(3, 4)]}


def test_a_value_carried_around_a_loop_lives_through_it() -> None:
    body = """  copy_in.copy a[j] = x[0, j] for j<64
  loop i < 4 {
    copy_in.copy b[j] = x[i, j] for j<64
    vector.add a[j] = a[j], b[j] for j<64
  }
  copy_out.copy y[0, j] = a[j] for j<64
"""
    assert ranges(body) == {"a": [(0, 3)], "b": [(1, 2)]}


def test_a_rotated_loop_frees_the_buffer_between_read_and_next_write() -> None:
    body = """  copy_in.copy a[j] = x[0, j] for j<64
  loop i < 4 {
    copy_out.copy y[i, j] = a[j] for j<64
    copy_in.copy b[j] = x[i, j] for j<64
    copy_out.copy y[i + 4, j] = b[j] for j<64
    copy_in.copy a[j] = x[i + 1, j] for j<64
  }
  copy_out.copy y[4, j] = a[j] for j<64
"""
    assert ranges(body) == {"a": [(0, 1), (4, 5)], "b": [(2, 3)]}


def test_stages_live_from_the_prologue_to_the_epilogue() -> None:
    """What comes before the first and after the last stage may have their bytes, and so may what is between."""
    body = """  copy_in.copy b[j] = x[7, j] for j<64
  copy_out.copy y[7, j] = b[j] for j<64
  copy_in.copy a[j] = x[0, j] for j<64
  loop i < 5 {
    copy_out.copy y[i, j] = a{i}[j] for j<64
    copy_in.copy b[j] = x[i + 1, j] for j<64
    copy_out.copy y[6, j] = b[j] for j<64
    copy_in.copy a{i + 1}[j] = x[i + 1, j] for j<64
  }
  copy_out.copy y[5, j] = a{5}[j] for j<64
  copy_in.copy b[j] = x[6, j] for j<64
  copy_out.copy y[6, j] = b[j] for j<64
"""
    text = HEADER.replace("a: f16[64]@ub local", "a: f16[64]@ub local slots 2") + body + "}\n"
    found = liveness(parse_program(text)).ranges
    assert [(r.first, r.last) for r in found["a"]] == [(2, 3), (6, 7)]
    assert [(r.first, r.last) for r in found["b"]] == [(0, 1), (4, 5), (8, 9)]


def test_homes_exclude_the_loops_an_accumulator_sums_over() -> None:
    body = """  loop i < 4 {
    loop k < 2 {
      copy_in.copy a[j] = x[i + k, j] for j<64
      vector.reduce_sum b[j] = a[j] for j<64 {init=k, chain=2}
    }
    copy_out.copy y[i, j] = b[j] for j<64
  }
"""
    homes = liveness(parse_program(HEADER + body + "}\n")).homes
    assert [loop.var for loop in homes["a"]] == ["i", "k"]
    assert [loop.var for loop in homes["b"]] == ["i"]


def positions(body: tuple[Stmt, ...]) -> dict[int, int]:
    """Instruction object to its position in program order."""
    found: dict[int, int] = {}

    def walk(statements: tuple[Stmt, ...]) -> None:
        for s in statements:
            if isinstance(s, Instr):
                found[id(s)] = len(found)
            else:
                walk(s.body)

    walk(body)
    return found


def elements(
    program: Program, instr: Instr, access: Access, env: dict[str, int]
) -> set[tuple[str, int, tuple[int, ...]]]:
    slot = access.slot.evaluate(env) % program.buffer(access.buffer).slots
    grids = np.indices([e for _, e in instr.dims]).reshape(len(instr.dims), -1).T
    names = [n for n, _ in instr.dims]
    points = [env | {n: int(v) for n, v in zip(names, p, strict=True)} for p in grids]
    return {(access.buffer, slot, tuple(f.evaluate(p) for f in access.index)) for p in points}


@settings(max_examples=40, deadline=None)
@given(programs())
def test_every_value_is_inside_the_lives(program: Program) -> None:
    assert_lives_hold(program)


@st.composite
def staged(draw: st.DrawFn) -> Program:
    """A loop whose iterations overlap by stages, its values handed on through buffers of several slots."""
    slots, late = draw(st.integers(2, 4)), draw(st.integers(0, 2))
    depth = draw(st.integers(1, slots - 1))
    extent, times = draw(st.integers(depth + 1, 6)), draw(st.integers(1, 3))
    slot = draw(st.sampled_from(["i", f"i + {extent}*o", f"{slots + 1}*i + o"]))
    half = draw(st.sampled_from([64, 32]))
    text = (
        HEADER.replace("@ub local", f"@ub local slots {slots}")
        + f"""  loop o < {times} {{
    loop i < {extent} {{
      copy_in.copy a{{{slot}}}[j] = x[i, j] for j<{half}
      copy_in.copy a{{{slot}}}[j + {half}] = x[i, j] for j<{64 - half or 1}
      vector.exp b{{{slot}}}[j] = a{{{slot}}}[j] for j<{half}
      copy_out.copy y[i, j] = b{{{slot}}}[j] for j<{half}
    }}
  }}
}}
"""
    )
    if half == 64:
        text = "".join(line for line in text.splitlines(True) if "j + 64" not in line)
    program = parse_program(text)
    (outer,) = program.body
    assert isinstance(outer, Loop)
    (loop,) = outer.body
    assert isinstance(loop, Loop)
    last = len(loop.body) - 1
    stages = [0] * last + [depth] if late else [0] * (last - 1) + [depth, depth]
    order = draw(st.sampled_from([[*range(last + 1)], sorted(range(last + 1), key=lambda n: -stages[n])]))
    return program.with_body((replace(outer, body=peel(loop, stages, order)),))


@settings(max_examples=40, deadline=None)
@given(staged())
def test_stages_of_a_loop_are_inside_the_lives(program: Program) -> None:
    assert_lives_hold(program)


def assert_lives_hold(program: Program) -> None:
    """From the write of an element to its read, every executed instruction lies in a life."""
    lives = liveness(program).ranges
    order = positions(program.body)
    instances = list(trace(program))
    written: dict[tuple[int, int, str, int, tuple[int, ...]], int] = {}
    for time, i in enumerate(instances):
        env = dict(i.env)
        scope = (i.phase, i.iteration)
        for a in i.instr.sources:
            if program.buffer(a.buffer).kind != "local":
                continue
            for element in elements(program, i.instr, a, env):
                start = written.get((*scope, *element))
                assert start is not None
                between = {order[id(x.instr)] for x in instances[start : time + 1]}
                assert all(any(r.first <= p <= r.last for r in lives[a.buffer]) for p in between), a.buffer
                break
        for a in i.instr.dst:
            for element in elements(program, i.instr, a, env):
                written[(*scope, *element)] = time


def test_live_together() -> None:
    found = liveness(parse_program(HEADER + "  copy_in.copy a[j] = x[0, j] for j<64\n}\n")).ranges
    assert not live_together(found["a"], found["b"])
    assert live_together(found["a"], found["a"])


def test_constant_slots_live_apart() -> None:
    text = HEADER.replace("a: f16[64]@ub local", "a: f16[64]@ub local slots 2")
    body = """  loop i < 1 {
    copy_in.copy a{i + 1}[j] = x[0, j] for j<64
    copy_in.copy b[j] = x[1, j] for j<64
    copy_out.copy y[1, j] = b[j] for j<64
    copy_out.copy y[0, j] = a{1}[j] for j<64
  }
"""
    found = liveness(split_slots(parse_program(text + body + "}\n"))).ranges
    assert not live_together(found[slot_name("a", 0)], found["b"])
    assert live_together(found[slot_name("a", 1)], found["b"])
    moving = split_slots(parse_program(text + body.replace("i < 1", "i < 2") + "}\n"))
    assert "a" in moving.table()
