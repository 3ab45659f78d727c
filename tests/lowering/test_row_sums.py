"""Sums over the rows of a nest that the cube makes, as written and distributed under the licence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opc import data, driver, machine
from opc.build import Build
from opc.numerics import FAST, STRICT
from opc.program.ir import instructions
from opc.tensor.bound import check
from opc.tensor.interpret import oracle_under
from opc.tensor.ir import Function
from opc.tensor.text import parse_function
from tests.lowering.test_rows_together import backward

NPU = machine.load("ascend910")
SPLIT = machine.load("ascend910b")
FEW = replace(NPU, cores=3)


def products(built: Build) -> set[str]:
    """Accumulators of what the cube sums up."""
    return {i.dst[0].buffer for i, _ in instructions(built.module.run.body) if i.opcode == "cube.mma"}


def assert_correct(f: Function, built: Build, kind: str) -> None:
    arrays = data.arguments(f, 5, kind)
    found, expected = driver.npu_kernel(built).simulate(arrays), oracle_under(f, built.function, arrays)
    for name in f.results:
        report = check(found[name], expected[name])
        assert report.ok, f"{name}: {report}"


@pytest.mark.parametrize("numerics", [STRICT, FAST])
@pytest.mark.parametrize(
    ("images", "rows", "channels"),
    [(2, 771, 24), (1, 2000, 16), (33, 30, 40), (4, 50, 520)],
)
def test_within_the_bound(images: int, rows: int, channels: int, numerics: str) -> None:
    f = parse_function(backward(images, rows, channels))
    built = driver.build(f, FEW, numerics=numerics)
    assert products(built)
    for kind in ("normal", "integer"):
        assert_correct(f, built, kind)


def test_sums_of_values_need_no_licence() -> None:
    f = parse_function(backward(32, 784, 64))
    assert len(products(driver.build(f, NPU))) == 1
    assert len(products(driver.build(f, NPU, numerics=FAST))) == 2


def test_what_memory_holds_goes_to_the_cube_as_it_lies() -> None:
    """Nothing is beside the vector unit but results."""
    f = parse_function(
        """func v1 f {
  arg x: f16[32,784,64] input
  arg z: f16[32,784,64] input
  op s: f32[32,64] sum accumulate f32 {
    piece n<32, c<64 reduce i<784 at n, c = mul(x[n, i, c], z[n, i, c])
  }
  op t: f32[32,64] sum accumulate f32 {
    piece n<32, c<64 reduce i<784 at n, c = z[n, i, c]
  }
  return s, t
}
"""
    )
    built = driver.build(f, NPU)
    assert len(products(built)) == 2
    assert not any(i.opcode == "vector.add" for i, _ in instructions(built.module.run.body))
    assert_correct(f, built, "normal")


def test_cores_that_are_apart_keep_their_sums() -> None:
    f = parse_function(backward(32, 784, 64))
    built = driver.build(f, SPLIT, numerics=FAST)
    assert not products(built)
    assert_correct(f, built, "normal")


def test_digits_that_a_far_mean_costs() -> None:
    """With a mean of r standard deviations the error grows about as much."""
    f = parse_function(backward(32, 784, 64))
    built = driver.build(f, NPU, numerics=FAST)
    random = np.random.default_rng(1)
    noise, d = random.normal(size=(2, 32, 784, 64))
    for far in (1.0, 10.0, 100.0):
        a = (noise + far).astype(np.float16)
        arrays = {
            "y": np.ones_like(a), "d": d.astype(np.float16), "a": a, "mean": np.full(64, far, np.float32)
        }  # fmt: skip
        found = driver.npu_kernel(built).simulate(arrays)["s"]
        terms = arrays["d"].astype(np.float64) * (a.astype(np.float64) - far)
        assert np.abs(found - terms.sum((0, 1))).max() <= 1e-6 * (1 + far) * np.abs(terms).sum((0, 1)).max()
