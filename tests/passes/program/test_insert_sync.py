"""Flags: every conflict ordered, every flag waited for once, no deadlock, whatever the timing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.errors import PassError
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Instr, Loop, Program, Stmt
from opc.program.text import parse_program, print_program
from passes.program.insert_sync import InsertSync
from tests.passes.program.programs import ASCEND, Instance, programs, tile_loops, trace

SAMPLE = Path(__file__).parents[2] / "samples" / "conv_bn_relu.ascend910.program"
MACHINES = (
    ASCEND,
    replace(ASCEND, event_ids=1),
    replace(ASCEND, event_ids=2, unordered_pipes=frozenset()),
    replace(ASCEND, event_ids=8, unordered_pipes=frozenset(ASCEND.pipes)),
)


def synchronised(program: Program, machine: Machine = ASCEND) -> Program:
    result = InsertSync().run(program, Context(machine))
    assert isinstance(result, Program)
    return result


def stripped(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    return tuple(
        replace(s, body=stripped(s.body)) if isinstance(s, Loop) else s
        for s in body
        if isinstance(s, Loop) or s.opcode_class != "sync"
    )


def happens_before(events: list[Instance], machine: Machine) -> list[int]:
    """For each event the set (as bits) of events that precede it in every execution."""
    before: list[int] = []
    on_pipe: dict[str, list[int]] = {p: [] for p in machine.pipes}
    gate: dict[str, int] = dict.fromkeys(machine.pipes, 0)  # what precedes all later work of a pipe
    pending: dict[tuple[str, str, int], int] = {}
    waited: dict[tuple[str, str, int], int] = {}
    for n, e in enumerate(events):
        op = e.instr.op if e.instr.opcode_class == "sync" else ""
        pipes = list(machine.pipes) if e.pipe == "ALL" else [e.pipe]
        seen = 0
        for p in pipes:
            seen |= gate[p]
            if op in ("set_flag", "barrier") or (op == "" and p not in machine.unordered_pipes):
                for k in on_pipe[p]:
                    seen |= before[k] | 1 << k
        if op in ("set_flag", "wait_flag"):
            key = flag_of(e, machine)
            if op == "set_flag":
                assert key not in pending, f"{key} set twice"
                if key in waited:
                    assert seen >> waited[key] & 1, f"{key} may be set again before its wait"
                pending[key] = n
            else:
                assert key in pending, f"{key} waited for in vain"
                seen |= before[pending[key]] | 1 << pending[key]
                del pending[key]
                waited[key] = n
        before.append(seen)
        for p in pipes:
            on_pipe[p].append(n)
            if op in ("wait_flag", "barrier") or p not in machine.unordered_pipes:
                gate[p] |= seen | 1 << n
    assert not pending, "flags left set"
    return before


def flag_of(e: Instance, machine: Machine) -> tuple[str, str, int]:
    assert e.instr.flag is not None
    source, target, number = e.instr.flag
    return source, target, number.evaluate(dict(e.env)) % machine.event_ids


def assert_race_free(program: Program, machine: Machine, cores: int) -> None:
    events = trace(program, machine, 0, cores)
    before = happens_before(events, machine)
    for n, e in enumerate(events):
        for k in range(n):
            if events[k].conflicts(e):
                assert before[n] >> k & 1, f"race: {events[k].instr} {events[k].env} | {e.instr} {e.env}"


def execute(events: list[Instance], machine: Machine, choose: random.Random) -> None:
    """Run in-order pipes with arbitrary speeds; fails on deadlock, a lost flag or a race."""
    queues = {p: [n for n, e in enumerate(events) if e.pipe in (p, "ALL")] for p in machine.pipes}
    at = dict.fromkeys(queues, 0)
    running: dict[int, str] = {}
    finished: set[int] = set()
    flags: set[tuple[str, str, int]] = set()
    while len(finished) < len(events):
        moves = [("finish", n) for n in running]
        for p, queue in queues.items():
            if at[p] < len(queue) and startable(queue[at[p]], p, events, machine, running, flags, queues, at):
                moves.append(("start", queue[at[p]]))
        assert moves, "deadlock"
        move, n = choose.choice(moves)
        e = events[n]
        if move == "finish":
            del running[n]
            finished.add(n)
            continue
        for p in queues if e.pipe == "ALL" else (e.pipe,):
            at[p] += 1
        if e.instr.opcode_class != "sync":
            assert all(k in finished for k in range(n) if events[k].conflicts(e)), f"race at {e}"
            running[n] = e.pipe
            continue
        finished.add(n)
        if e.instr.op == "set_flag":
            assert flag_of(e, machine) not in flags, "set twice"
            flags.add(flag_of(e, machine))
        elif e.instr.op == "wait_flag":
            flags.remove(flag_of(e, machine))
    assert not flags


def startable(
    n: int,
    pipe: str,
    events: list[Instance],
    machine: Machine,
    running: dict[int, str],
    flags: set[tuple[str, str, int]],
    queues: dict[str, list[int]],
    at: dict[str, int],
) -> bool:
    e = events[n]
    if e.pipe == "ALL":
        return not running and all(at[p] < len(q) and q[at[p]] == n for p, q in queues.items())
    if e.instr.op == "wait_flag":
        return flag_of(e, machine) in flags
    busy = pipe in running.values()
    if e.instr.opcode_class == "sync":
        return not busy
    return not busy or pipe in machine.unordered_pipes


@settings(max_examples=70, deadline=None)
@given(
    st.one_of(programs(parallel=2), tile_loops()),
    st.sampled_from(MACHINES),
    st.sampled_from((1, 2)),
    st.integers(0, 1 << 30),
)
def test_random_programs_are_safe(program: Program, machine: Machine, cores: int, seed: int) -> None:
    machine = replace(machine, cores=cores)
    result = synchronised(program, machine)
    assert stripped(result.body) == program.body
    if len(trace(result, machine, 0, cores)) > 400:
        return
    assert_race_free(result, machine, cores)
    choose = random.Random(seed)
    for _ in range(3):
        execute(trace(result, machine, 0, cores), machine, choose)


def test_sample() -> None:
    result = synchronised(parse_program(SAMPLE.read_text()))
    assert_race_free(result, ASCEND, 32)
    assert parse_program(print_program(result)) == result


def test_machines_in_program_order_are_left_alone() -> None:
    program = parse_program(SAMPLE.read_text())
    assert InsertSync().run(program, Context(replace(ASCEND, sync="none"))) is program


def test_only_once() -> None:
    result = synchronised(parse_program(SAMPLE.read_text()))
    with pytest.raises(PassError, match="E0705"):
        synchronised(result)


def test_a_sequential_loop_at_the_top_gets_a_core() -> None:
    program = parse_program(SAMPLE.read_text())
    parallel = program.body[0]
    assert isinstance(parallel, Loop)
    result = synchronised(program.with_body((replace(parallel, parallel=False), Instr("vector.copy"))))
    assert isinstance(result.body[0], Loop)
    assert result.body[0].parallel


def test_primed_sets_need_ids_too() -> None:
    text = """program v1 wave machine ascend910 {
  buffer x: f32[5,64]@gm inout
  buffer t: f32[64]@ub local
  buffer s: f32[64]@ub local
  parallel core < 1 {
    loop i < EXTENT {
      copy_in.copy t[j] = x[i + 1, j] for j<64
      copy_out.copy x[i, j] = s[j] for j<64
    }
  }
}
"""
    for extent in (2, 3, 4):
        assert_race_free(synchronised(parse_program(text.replace("EXTENT", str(extent)))), ASCEND, 1)


def test_more_flags_than_ids_are_joined_before_everything_stops() -> None:
    loads = "".join(f"    copy_in.copy t[{n}, j] = x[{n}, j] for j<64\n" for n in range(6))
    adds = "".join(f"    vector.add s[j] = s[j], t[{n}, j] for j<64\n" for n in range(6))
    program = parse_program(
        "program v1 late machine ascend910 {\n  buffer x: f32[6,64]@gm input\n  buffer t: f32[6,64]@ub local\n"
        f"  buffer s: f32[64]@ub local\n  parallel core < 1 {{\n{loads}{adds}  }}\n}}\n"
    )
    result = synchronised(program)
    assert_race_free(result, ASCEND, 1)
    assert "ALL" not in print_program(result)
    alone = synchronised(program, replace(ASCEND, event_ids=1))
    assert_race_free(alone, replace(ASCEND, event_ids=1), 1)
