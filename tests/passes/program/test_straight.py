"""Long bodies without loops: ids run out, and nothing but flags between two pipes has to give."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.sync.lines import line, row
from opc import npu
from opc.dtypes import DType
from opc.machine import Machine, load
from opc.npu.listing import instructions
from opc.pipeline import Context
from opc.program.ir import Buffer, Instr, Loop, Program
from passes.program.insert_sync import InsertSync
from passes.program.plan_memory import PlanMemory
from tests.npu.test_minimal import needless

ASCEND = load("ascend910")


def listing_of(program: Program, machine: Machine) -> npu.Listing:
    final = InsertSync().run(PlanMemory().run(program, Context(machine)), Context(machine))
    assert isinstance(final, Program)
    return npu.emit(final, machine)


@pytest.mark.parametrize("ids", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_random_lines_are_proved_and_minimal(ids: int, seed: int) -> None:
    machine = replace(
        ASCEND,
        event_ids=ids,
        unordered_pipes=frozenset(random.Random(seed).sample(ASCEND.pipes, seed % 5)),
    )
    listing = listing_of(line(machine, 36, seed, 3 + seed), machine)
    npu.prove(listing, machine)
    assert needless(listing, machine) == []


@pytest.mark.parametrize("ids", [1, 2, 4])
def test_flags_are_joined_evenly_and_no_barrier_stops_every_pipe(ids: int) -> None:
    loads = [Instr("copy_in.copy", (("j", 64),), (row("t", n),), (row("x", n),)) for n in range(24)]
    uses = [Instr("vector.mul", (("j", 64),), (row("t", n),), (row("t", n), row("t", n))) for n in range(24)]
    buffers = (
        Buffer("t", DType.F16, (24, 64), "ub"),
        Buffer("x", DType.F16, (24, 64), "gm", "input"),
    )
    program = Program("late", "ascend910", buffers, (Loop("core", 1, (*loads, *uses), True),))
    machine = replace(ASCEND, event_ids=ids)
    found = [i for i, _ in instructions(listing_of(program, machine).phases[0].body)]
    assert sum(i.mnemonic == "set_flag" for i in found) == ids
    assert not [i for i in found if i.mnemonic == "pipe_barrier"]
    last, sizes = 0, []
    for i in found:
        if i.mnemonic == "set_flag":
            sizes.append(last)
            last = 0
        last += i.pipe == "MTE2" and i.flag is None
    assert max(sizes) <= 2 * max(1, 24 // ids)


def test_a_wait_that_has_passed_is_answered() -> None:
    body = []
    for n in range(24):
        body += [Instr("copy_in.copy", (("j", 64),), (row("t", n),), (row("x", n),))]
        body += [Instr("vector.mul", (("j", 64),), (row("t", n),), (row("t", n), row("t", n)))]
    buffers = (
        Buffer("t", DType.F16, (24, 64), "ub"),
        Buffer("x", DType.F16, (24, 64), "gm", "input"),
    )
    program = Program("stream", "ascend910", buffers, (Loop("core", 1, tuple(body), True),))
    listing = listing_of(program, ASCEND)
    npu.prove(listing, ASCEND)
    found = [i for i, _ in instructions(listing.phases[0].body)]
    back = [i for i in found if i.mnemonic == "set_flag" and i.pipe == "V"]
    assert 0 < len(back) <= 20
    assert not [i for i in found if i.pipe == "ALL"]
