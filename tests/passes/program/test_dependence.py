"""Dependence analysis against brute force over expanded programs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from opc.program.dependence import FAR, dependences
from opc.program.ir import Loop, Program, Stmt
from opc.program.text import parse_program
from tests.passes.program.programs import ASCEND, Instance, Memory, expand, programs

Bodies = list[tuple[tuple[Stmt, ...], tuple[Loop, ...]]]


def bodies(body: tuple[Stmt, ...], loops: tuple[Loop, ...]) -> Bodies:
    found = [(body, loops)] if loops else []
    for s in body:
        if isinstance(s, Loop):
            found += bodies(s.body, (*loops, s))
    return found


def instances(
    program: Program, body: tuple[Stmt, ...], loops: tuple[Loop, ...]
) -> list[tuple[int, int, Instance]]:
    """(flattened iteration, statement index, instance) in execution order, for parallel iteration 0."""
    points: list[dict[str, int]] = [{loops[0].var: 0}]
    for loop in loops[1:]:
        points = [{**p, loop.var: v} for p in points for v in range(loop.extent)]
    memory = Memory(program, ASCEND)
    return [
        (g, n, memory.instance(i, env))
        for g, p in enumerate(points)
        for n, s in enumerate(body)
        for i, env in expand((s,), p)
    ]


@settings(max_examples=60, deadline=None)
@given(programs())
def test_every_conflict_is_reported(program: Program) -> None:
    for body, loops in bodies(program.body, ()):
        carried = len(loops) - 1
        known = {}
        for d in dependences(body, loops, program, ASCEND, carried):
            known[d.source, d.target] = min(d.distance, known.get((d.source, d.target), 1 << 30))
        run = instances(program, body, loops)
        if len(run) > 250:
            continue
        for k, (g, s, x) in enumerate(run):
            for h, t, y in run[k + 1 :]:
                if (g, s) != (h, t) and x.conflicts(y):
                    assert (s, t) in known, f"missing {s}->{t}: {x} {y}"
                    assert known[s, t] <= h - g


def deps(text: str, inner: bool = True) -> set[tuple[int, int, str, int]]:
    program = parse_program(text)
    loops: list[Loop] = []
    body: tuple[Stmt, ...] = program.body
    while len(body) == 1 and isinstance(body[0], Loop):
        loops.append(body[0])
        body = body[0].body
    return {
        (d.source, d.target, d.kind, d.distance)
        for d in dependences(body, loops, program, ASCEND, len(loops) - 1)
    }


PING_PONG = """program v1 p machine ascend910 {
  buffer x: f32[64]@gm input
  buffer y: f32[64]@gm output
  buffer t: f32[8]@ub local slots SLOTS
  parallel core < 1 {
    loop i < 8 {
      copy_in.copy t{i}[j] = x[i*8 + j] for j<8
      copy_out.copy y[i*8 + j] = t{i}[j] for j<8
    }
  }
}
"""


def test_slots_set_the_distance() -> None:
    for slots in (2, 3):
        assert deps(PING_PONG.replace("SLOTS", str(slots))) == {
            (0, 1, "RAW", 0),
            (0, 0, "WAW", slots),
            (1, 0, "WAR", slots),
        }


def test_disjoint_rows_do_not_meet() -> None:
    assert not [d for d in deps(PING_PONG.replace("SLOTS", "2")) if d[:2] == (1, 1)]


def test_far_distances_are_cut() -> None:
    assert (1, 0, "WAR", FAR + 1) not in deps(PING_PONG.replace("SLOTS", "12"))
    assert (1, 0, "WAR", FAR + 1) in deps(PING_PONG.replace("SLOTS", "12").replace("< 8", "< 64"))


def test_shared_bytes_are_a_dependence() -> None:
    text = PING_PONG.replace("slots SLOTS", "at 0").replace("loop i", "buffer", 0)
    planned = (
        text.replace("  parallel", "  buffer u: f32[8]@ub local at 16\n  parallel")
        .replace("    loop i < 8 {\n", "    loop i < 8 {\n      vector.copy u[j] = u[j] for j<8\n")
        .replace("{i}", "")
    )
    found = deps(planned)
    assert (0, 1, "WAW", 0) in found
    assert (2, 0, "WAR", 1) in found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_distance_across_an_inner_loop_end(outer: int, inner: int, slots: int, shift: int) -> None:
    text = f"""program v1 p machine ascend910 {{
  buffer x: f32[64]@gm input
  buffer t: f32[8]@ub local slots {slots}
  parallel core < 1 {{
    loop i < {outer} {{
      loop k < {inner} {{
        copy_in.copy t{{k}}[j] = x[j] for j<8
        vector.copy t{{k + {shift}}}[j] = 0.0 for j<8
      }}
    }}
  }}
}}
"""
    found = {(s, t): d for s, t, _, d in deps(text)}
    for s, a in ((0, 0), (1, shift)):
        for t, b in ((0, 0), (1, shift)):
            real = [
                h - g
                for g in range(outer * inner)
                for h in range(g, outer * inner)
                if (h > g or s < t) and (g % inner + a - h % inner - b) % slots == 0
            ]
            assert found.get((s, t)) == (min(real) if real and min(real) <= FAR else found.get((s, t)))


def test_instructions_touch_what_they_accumulate() -> None:
    text = """program v1 p machine ascend910 {
  buffer a: f16[16,16]@l0a local
  buffer b: f16[16,16]@l0b local
  buffer c: f32[16,16]@l0c local
  parallel core < 1 {
    loop k < 4 {
      cube.mma c[m, n] = a[m, k0], b[k0, n] for m<16, n<16, k0<16 {init=k}
    }
  }
}
"""
    assert deps(text) == {(0, 0, k, 1) for k in ("RAW", "WAR", "WAW")}
    assert deps(text.replace("init=k", "init=0")) == {(0, 0, "WAW", 1)}
