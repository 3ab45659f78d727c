"""Integer sums that the drain multiplies, clips and rounds: bit for bit what vector instructions make of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opc import driver, machine
from opc.build import Build
from opc.lang import parse
from opc.machine.model import Machine
from opc.program.ir import instructions
from opc.tensor.bound import check

KERNEL = """kernel requantise(x: i8[M, K], param w: i8[K, N]{others}) -> (y: {to}[M, N]) {{
  a[i, j] = sum[k](x[i, k] * w[k, j])
  y[i, j] = {value}
}}"""
OTHERS = ("bias: i32[N]", "factor: f32[N]", "one: f32[1]", "row: f32[M]")
SIZES = {"M": 37, "K": 70, "N": 45}
# What is stored, in which type, and on which machines the drain does all of it.
BOTH, FIRST, NONE = ("ascend910", "ascend910b"), ("ascend910",), ()
CASES = [
    ("i8", "i8(a[i, j])", BOTH),
    ("f16", "f16(a[i, j])", BOTH),
    ("i8", "i8(max(a[i, j], 0))", BOTH),
    ("i8", "i8(f32(a[i, j]) * 0.015625)", BOTH),
    ("f16", "f16(max(f32(a[i, j]) * -0.015625, 0))", BOTH),
    ("i8", "i8(f32(a[i, j]) * 0.013)", FIRST),  # the 910B keeps 11 bits of a factor
    ("i8", "i8(max(factor[j] * f32(a[i, j]), 0))", FIRST),
    ("i8", "i8(f32(a[i, j]) * one[0])", FIRST),
    ("f16", "f16(f32(a[i, j] + bias[j]) * factor[j])", FIRST),
    ("i8", "i8(f32(a[i, j]) * (factor[j] * one[0]))", FIRST),
    ("i8", "i8(f32(a[i, j]) * row[i])", NONE),  # factors are per column
    ("i8", "i8(max(f32(a[i, j]), 0) * factor[j])", NONE),  # clipped before
    ("i8", "i8(f32(a[i, j]) * factor[j] + 3.0)", NONE),
    ("i8", "i8(f32(a[i, j]) * 0.5 * factor[j])", NONE),  # rounded in between
    ("i8", "i8(f32(a[i, j]) * f32(a[i, j]))", NONE),
    ("f32", "f32(a[i, j]) * factor[j]", NONE),
]


def built(to: str, value: str, target: Machine) -> Build:
    others = "".join(f", {o}" for o in OTHERS if o.split(":")[0] + "[" in value)
    file = parse(KERNEL.format(others=others, to=to, value=value), "requantise.k")
    return driver.build(driver.specialise(file, "requantise.k", target, "requantise", SIZES), target)


def arguments(code: Build) -> dict[str, np.ndarray]:
    """All of i8, so that sums need more bits than an f32 result has; factors that make ties and saturate."""
    random = np.random.default_rng(5)
    found = {}
    for a in (arg.tensor for arg in code.source.args):
        if a.dtype.is_float:
            exponents = random.integers(-12, -2, a.shape)
            odd = random.integers(1, 8, a.shape)
            found[a.name] = (np.exp2(exponents) * odd).astype(np.float32)
        else:
            found[a.name] = random.integers(-128, 128, a.shape).astype(a.dtype.numpy)
    return found


def works_on_tiles(code: Build) -> bool:
    """Whether the vector unit has anything to do with results that were drained."""
    return any(i.opcode_class == "vector" and len(i.dims) > 1 for i, _ in instructions(code.tiled.run.body))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("to", "value", "folded"), CASES, ids=[value for _, value, _ in CASES])
def test_epilogues(to: str, value: str, folded: tuple[str, ...], name: str) -> None:
    target = machine.load(name)
    code = built(to, value, target)
    assert works_on_tiles(code) == (name not in folded)
    arrays = arguments(code)
    y = driver.npu_kernel(code).simulate(arrays)["y"]
    assert check(y, code.oracle(arrays)["y"]).ok
    plain = replace(target, scale_forms=frozenset(("convert", "relu")))
    assert np.array_equal(y, driver.npu_kernel(built(to, value, plain)).simulate(arrays)["y"])
