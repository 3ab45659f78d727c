"""Sums on tiles take pairs of consecutive elements, whatever order and direction operand A has them in."""

from __future__ import annotations

import pytest

from kernels_dsl import source
from opc import driver, machine
from opc.program.ir import Program
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from passes.tensor.differentiate import differentiate
from tests.cpu import tile_trap
from tests.lowering.test_lowering import lowered
from tests.lowering.test_machine_code import run_module
from tests.lowering.test_tiles import layer, nest
from tests.passes.tensor.gradients import differentiable

AMX = machine.load("amx")
# Gradients with regard to the input: pairs along an axis that is not the fastest, against it, along windows alone.
GRADIENTS = {
    "slow-axis": {
        "CG": 3, "C": 6, "K": 4, "groups": 2, "R": 2, "S": 3, "N": 2, "stride": 3, "dilation": 3, "pad": 1,
        "pad_bottom": 1, "pad_left": 2, "pad_right": 3, "H": 6, "W": 6,
    },
    "backwards": {
        "CG": 2, "C": 2, "K": 1, "groups": 1, "R": 1, "S": 2, "N": 3, "stride": 3, "dilation": 3, "pad": 0,
        "pad_bottom": 0, "pad_left": 0, "pad_right": 0, "H": 6, "W": 10,
    },
    "windows": {
        "CG": 1, "C": 1, "K": 20, "groups": 1, "R": 3, "S": 3, "N": 2, "stride": 1, "dilation": 3, "pad": 1,
        "pad_bottom": 1, "pad_left": 1, "pad_right": 1, "H": 9, "W": 9,
    },
    # A phase of the input has one term: nothing of that sum goes to the cube.
    "phases": {
        "CG": 3, "C": 3, "K": 1, "groups": 1, "R": 3, "S": 2, "N": 2, "stride": 2, "dilation": 1, "pad": 0,
        "pad_bottom": 0, "pad_left": 0, "pad_right": 0, "H": 11, "W": 4,
    },
}  # fmt: skip


def gradient(name: str) -> Function:
    """The backward function of a convolution in bf16, channels last."""
    f = driver.specialise(source("conv2d"), "conv2d.k", AMX, None, GRADIENTS[name], "bf16", "nhwc")
    return differentiate(f, differentiable(f)).backward


@pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_as_machine_code(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = gradient(name)
    arrays = random_inputs(function, 5)
    expected = oracle(function, arrays)
    with tile_trap.trapping(tmp_path_factory.getbasetemp(), monkeypatch) as trapped:
        found = run_module(lowered(function, "amx"), function, "amx", arrays, 1, True)
    assert trapped.faults == 0, trapped.message
    for result in function.results:
        report = check(found[result], expected[result])
        assert report.ok, f"{result}: {report}"


@pytest.mark.parametrize("name", GRADIENTS)
def test_tile_operands_hold_whole_pairs(name: str) -> None:
    run: Program = lowered(gradient(name), "amx").run
    tiles = [b for b in run.buffers if b.space == "tmm" and b.dtype.bytes == 2]
    assert tiles
    assert all(b.shape[-1] % 2 == 0 for b in tiles)


def test_copies_set_only_those_taps_apart_that_rows_of_a_tile_need() -> None:
    plan = nest(layer(1, 512, 7, 512, 3, 1, 1)).tiling
    assert plan.layout.elements == 3 * 7 * 9 * 512


def test_rows_that_all_columns_meet_stay_near() -> None:
    plan = nest(layer(8, 2048, 7, 512, 1, 1, 0)).tiling
    (rows,) = plan.slab.values()
    assert plan.inner == "rows"
    assert (rows + plan.columns) * 2048 * 2 <= AMX.role("stage").capacity * 3 // 2
