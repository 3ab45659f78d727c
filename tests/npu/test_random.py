"""Random programs through planning and synchronisation to a listing: proved, and the interpreter's numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from opc import npu
from opc.errors import MachineError, PassError
from opc.npu.adversarial import replay
from opc.pipeline import Context
from opc.program.interpret import run
from opc.program.ir import Program
from passes.program.insert_sync import InsertSync
from passes.program.plan_memory import PlanMemory
from tests.npu.samples import machine
from tests.strategies.program import arguments, programs

MACHINE = machine()
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def listing_of(program: Program) -> tuple[Program, npu.Listing]:
    context = Context(MACHINE)
    try:
        final = InsertSync().run(PlanMemory().run(program, context), context)
    except (MachineError, PassError):
        assume(False)
    assert isinstance(final, Program)
    return final, npu.emit(final, MACHINE)


@SETTINGS
@given(programs("ascend910"))
def test_text_is_exact(program: Program) -> None:
    _, listing = listing_of(program)
    text = npu.print_listing(listing)
    assert npu.parse_listing(text) == listing
    assert npu.print_listing(npu.parse_listing(text)) == text


@SETTINGS
@given(programs("ascend910"))
def test_synchronised_programs_are_proved_and_mean_the_same(program: Program) -> None:
    final, listing = listing_of(program)
    assert npu.prove(listing, MACHINE).races == 0
    arrays = arguments(final)
    expected = {name: a.copy() for name, a in arrays.items()}
    with np.errstate(all="ignore"):
        run(final, expected)
    found = npu.simulate(listing, arrays, MACHINE)
    # Sums are exact, so their order does not matter; functions are the same code. Workspace is no result.
    for name in found.keys() & expected.keys():
        np.testing.assert_array_equal(found[name], expected[name])


@SETTINGS
@given(programs("ascend910"), st.integers(0, 2**32 - 1))
def test_any_timing_gives_the_same_bits(program: Program, seed: int) -> None:
    final, listing = listing_of(program)
    arrays = arguments(final)
    expected = npu.simulate(listing, arrays, MACHINE)
    for name, values in replay(listing, arrays, seed, MACHINE).items():
        assert values.tobytes() == expected[name].tobytes()
