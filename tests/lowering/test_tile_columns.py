"""Columns that arrive at run time are packed for tiles in the core's own memory, by tap and block of columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_dsl import source
from opc import driver, machine
from opc.program.ir import Module, Program
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from passes.tensor.differentiate import differentiate
from tests.lowering.test_machine_code import run_module

AMX = machine.load("amx")
ONE = {"dilation": 1, "groups": 1}


def weight_gradient(**sizes: int) -> Function:
    """That of a convolution in bf16, channels last."""
    pad = sizes.pop("pad", 0)
    edges = {"pad": pad, "pad_bottom": pad, "pad_left": pad, "pad_right": pad}
    sizes = {**ONE, "CG": sizes["C"] // sizes.get("groups", 1), **sizes, **edges}
    f = driver.specialise(source("conv2d"), "conv2d.k", AMX, None, sizes, "bf16", "nhwc")
    return differentiate(f, ["w"]).backward


def module(function: Function, plan: str = "", stage: int = 0) -> Module:
    """Lowered by a plan for as much staging memory (0: what the machine has)."""
    space = replace(AMX.spaces["l2"], capacity=stage or AMX.spaces["l2"].capacity)
    small = replace(AMX, spaces={**AMX.spaces, "l2": space})
    return driver.build(function, small, plans=plan).tiled


def near(run: Program) -> list[tuple[str, str]]:
    """Kind and name of buffers of packed columns."""
    return [(b.kind, b.name) for b in run.buffers if "_packed" in b.name]


CASES = {
    "taps": ({"N": 2, "C": 64, "H": 9, "W": 10, "K": 48, "R": 3, "S": 3, "pad": 1}, 0),
    "strides": ({"N": 2, "C": 64, "H": 11, "W": 14, "K": 20, "R": 3, "S": 2, "stride": 2, "pad": 1}, 0),
    "apart": ({"N": 3, "C": 32, "H": 12, "W": 10, "K": 32, "R": 2, "S": 3, "dilation": 2}, 0),
    "groups": ({"N": 2, "C": 64, "H": 8, "W": 8, "K": 64, "R": 3, "S": 3, "groups": 2, "pad": 1}, 0),
    "pixels": ({"N": 4, "C": 96, "H": 8, "W": 8, "K": 64, "R": 1, "S": 1}, 0),
    "slabs": ({"N": 2, "C": 64, "H": 16, "W": 16, "K": 64, "R": 3, "S": 3, "pad": 1}, 72 * 1024),
}


@pytest.mark.parametrize("name", CASES)
def test_packed_near_as_machine_code(name: str) -> None:
    sizes, stage = CASES[name]
    function = weight_gradient(**sizes)
    found = module(function, f"inner=rows slab={sizes['K'] // sizes.get('groups', 1)}", stage)
    assert ("local", "x_packed_near") in near(found.run)
    arrays = random_inputs(function, 5)
    expected = oracle(function, arrays)["d_w"]
    one, two = (run_module(found, function, "amx", arrays, threads)["d_w"] for threads in (1, 2))
    report = check(one, expected)
    assert report.ok, report
    assert one.tobytes() == two.tobytes()


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_random_weight_gradients(data: st.DataObject) -> None:
    def pick(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    sizes = {"N": pick(1, 3), "C": pick(1, 80), "K": pick(1, 40), "R": pick(1, 3), "S": pick(1, 3)}
    sizes |= {
        "stride": pick(1, 2),
        "dilation": pick(1, 2),
        "pad": pick(0, 1),
        "H": pick(5, 13),
        "W": pick(5, 13),
    }
    function = weight_gradient(**sizes)
    plan = data.draw(st.sampled_from(["", "inner=rows", f"inner=rows slab={sizes['K']} prefetch=on"]))
    found = module(function, plan, data.draw(st.sampled_from([0, 32 * 1024])))
    arrays = random_inputs(function, 5)
    report = check(run_module(found, function, "amx", arrays, 1)["d_w"], oracle(function, arrays)["d_w"])
    assert report.ok, report


def test_what_does_not_fit_beside_the_rows_is_packed_before() -> None:
    sizes, _ = CASES["slabs"]
    assert [kind for kind, _ in near(module(weight_gradient(**sizes), stage=8 * 1024).run)] == ["workspace"]
