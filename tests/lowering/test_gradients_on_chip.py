"""Gradients of convolutions where operands pass a staging memory: values, and the same bits on any number of cores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels_dsl import source
from opc import data, driver, machine
from opc.build import run_passes
from opc.machine import Machine
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from passes.lowering._matmul_spaces import SpaceNest
from passes.lowering.tile import Lowering
from passes.tensor import _staged_parts
from passes.tensor.differentiate import differentiate
from passes.tensor.fuse import Fuse
from passes.tensor.split_sums import SplitSums
from tests.e2e.test_gradients import backward_arguments
from tests.lowering.test_outer_products import GRADIENT

NPU = machine.load("ascend910")
# n, c, k, image, window, stride, pad
SHAPES = {
    "window": (4, 16, 32, 10, 3, 1, 1),
    "strided": (4, 24, 16, 11, 3, 2, 1),
    "ragged": (3, 20, 37, 7, 3, 1, 1),
    "matrix": (8, 48, 40, 6, 1, 1, 0),
    "strided-matrix": (4, 32, 48, 9, 1, 2, 0),
}


def weight_gradient(n: int, c: int, k: int, image: int, window: int, stride: int, pad: int) -> Function:
    """In f16, channels last."""
    out = (image + 2 * pad - window) // stride + 1
    sizes = {"N": n, "C": c, "K": k, "H": image, "W": image, "P": out, "Q": out, "R": window, "S": window}
    sizes |= {"stride": stride, "pad": pad, "dilation": 1}
    return driver.specialise(GRADIENT, "gradient", NPU, None, sizes, "f16", "nhwc")


def simulated(function: Function, target: Machine) -> bytes:
    """The bytes of the result, within its bound."""
    arrays = data.arguments(function, 3, "normal")
    found = driver.npu_kernel(driver.build(function, target)).simulate(arrays)["dw"]
    report = check(found, oracle(function, arrays)["dw"])
    assert report.ok, str(report)
    return found.tobytes()


@pytest.mark.parametrize("name", SHAPES)
def test_sums_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_staged_parts, "_GAIN", 1e9)
    function = weight_gradient(*SHAPES[name])
    parted, _ = run_passes(function, [SplitSums()], NPU)
    assert len(parted.ops) == 2
    assert simulated(function, NPU) == simulated(function, replace(NPU, cores=20))
    assert run_passes(function, [SplitSums(staged=False)], NPU)[0] == function


@pytest.mark.parametrize("name", SHAPES)
def test_sums_as_a_whole(name: str) -> None:
    simulated(weight_gradient(*SHAPES[name]), NPU)


def test_taps_of_a_window_fill_blocks_with_few_columns() -> None:
    sums = weight_gradient(8, 256, 64, 14, 3, 1, 1)
    fused, _ = run_passes(
        sums,
        [replace(p, staged=False) if isinstance(p, SplitSums) else p for p in driver.pipeline("tensor")],
        NPU,
    )
    (nest,) = Lowering(fused, NPU, False).contractions()
    assert isinstance(nest, SpaceNest)
    assert (nest.plan.parallel, nest.plan.outer["c"]) == ("c", 8)


# What tiles of rows do to an operand that is made on the way: one tile, several that reach into each other, ragged.
BLOCKS = {
    **{name: SHAPES[name] for name in ("strided", "ragged", "matrix")},
    "one-image": (1, 16, 24, 9, 3, 1, 1),
    "tall": (2, 16, 16, 40, 3, 1, 1),
    "unpadded": (2, 16, 16, 12, 3, 1, 0),
    "full": (2, 16, 16, 6, 3, 1, 2),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_training_blocks(name: str) -> None:
    n, c, k, image, window, stride, pad = BLOCKS[name]
    sizes = {"N": n, "C": c, "CG": c, "K": k, "H": image, "W": image, "R": window, "S": window}
    sizes |= {"stride": stride, "pad": pad}
    forward = driver.specialise(source("conv_bn_relu_train"), "block", NPU, None, sizes, "f16", "nhwc")
    gradient = differentiate(forward, ["x", "w", "gamma", "beta"])
    arrays = backward_arguments(forward, gradient, "normal")
    expected = oracle(gradient.backward, arrays)
    found = driver.npu_kernel(driver.build(gradient.backward, NPU)).simulate(arrays)
    for result in gradient.backward.results:
        report = check(found[result], expected[result])
        assert report.ok, f"{result}: {report}"


def test_an_operand_is_made_once_for_both_gradients() -> None:
    forward = driver.specialise(
        source("conv_bn_relu_train"), "block", NPU, None, {"N": 4, "C": 32, "CG": 32, "K": 32, "H": 14, "W": 14},
        "f16", "nhwc",
    )  # fmt: skip
    backward = differentiate(forward, ["x", "w"]).backward
    groups = {}
    for shared in (True, False):
        passes = [replace(p, shared=shared) if isinstance(p, Fuse) else p for p in driver.pipeline("tensor")]
        fused, _ = run_passes(backward, passes, NPU)
        groups[shared] = {op.name: op.group for op in fused.ops}
    assert groups[True]["d_a"] == groups[True]["d_x"]
    assert groups[False]["d_a"] != groups[False]["d_x"]
