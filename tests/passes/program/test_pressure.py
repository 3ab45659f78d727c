"""Event ids wanted and what had to give."""

from __future__ import annotations

from dataclasses import replace

import kernels_dsl
from benchmarks.sync.lines import row
from opc import driver
from opc.dtypes import DType
from opc.machine import load
from opc.pipeline import Context
from opc.program.ir import Buffer, Instr, Loop, Program
from passes.program._pressure import pressure
from passes.program.insert_sync import InsertSync

ASCEND = load("ascend910")


def late() -> Program:
    """Twelve loads, then twelve uses."""
    loads = [Instr("copy_in.copy", (("j", 64),), (row("t", n),), (row("x", n),)) for n in range(12)]
    uses = [Instr("vector.mul", (("j", 64),), (row("t", n),), (row("t", n), row("t", n))) for n in range(12)]
    buffers = (Buffer("t", DType.F16, (12, 64), "ub"), Buffer("x", DType.F16, (12, 64), "gm", "input"))
    return Program("late", "ascend910", buffers, (Loop("core", 1, (*loads, *uses), True),))


def test_flags_that_are_joined_show() -> None:
    (found,) = pressure(late(), ASCEND)
    assert (found.pair, found.wanted, found.available) == (("MTE2", "V"), 12, 4)
    assert (found.flags, found.kept) == (12, 4)
    (roomy,) = pressure(late(), replace(ASCEND, event_ids=16))
    assert (roomy.flags, roomy.kept) == (12, 12)


def test_sync_in_the_program_is_not_looked_at() -> None:
    final = InsertSync().run(late(), Context(ASCEND))
    assert isinstance(final, Program)
    assert pressure(final, ASCEND) == pressure(late(), ASCEND)


def test_loops_hold_their_ids_throughout() -> None:
    function = driver.specialise(
        kernels_dsl.source("conv_bn_relu"), "conv_bn_relu", ASCEND, "conv_bn_relu", {"C": 64, "K": 64}
    )
    found = pressure(driver.build(function, ASCEND).module.run, ASCEND)
    assert {p.pair for p in found} >= {("MTE2", "MTE1"), ("MTE1", "M"), ("V", "MTE3")}
    assert all(p.kept <= p.flags and p.wanted > 0 for p in found)
