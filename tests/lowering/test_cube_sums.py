"""Sums over the rows of a product's tile that the cube makes, and moments that a licence turns into such sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from opc import data, driver, machine
from opc.arrays import Array
from opc.build import Build
from opc.machine.model import Machine
from opc.numerics import FAST
from opc.program.ir import Instr, instructions
from opc.tensor.bound import check
from opc.tensor.interpret import oracle_under
from opc.tensor.ir import Function
from tests.lowering import test_roles
from tests.lowering.test_roles import shapes, specialised

_SUMS = """
kernel sums(x: T[M, C], param w: T[C, K], param v: T[C, K]) -> (y: T[M, K], s: f32[K], q: f32[K], top: f32[K]) {
  "A product, the sums of its values and of their squares, and the largest of them."
  example M = 300, C = 16, K = 24
  y[m, k] = sum[c](x[m, c] * w[c, k])
  s[k] = sum[m](f32(y[m, k]))
  q[k] = sum[m](f32(y[m, k]) * f32(y[m, k]))
  top[k] = max[m](f32(y[m, k]))
}
"""


def quick(target: Machine) -> Machine:
    """A machine on which small problems do not wait for what they load."""
    memory = target.roles["memory"]
    routes = tuple(replace(r, bandwidth=64 * r.bandwidth) if r.source == memory else r for r in target.routes)
    return replace(target, routes=routes)


MACHINES = tuple(map(quick, test_roles.MACHINES))
NPU = MACHINES[0]


def products(built: Build) -> list[Instr]:
    """Products of a tile with itself or with ones: their accumulators are apart from those of the contraction."""
    found = [i for i, _ in instructions(built.module.run.body) if i.opcode == "cube.mma"]
    return [i for i in found if len(i.dst[0].index) > 2]


def assert_licensed(f: Function, target: Machine, arrays: dict[str, Array]) -> Build:
    built = driver.build(f, target, numerics=FAST)
    found, expected = driver.npu_kernel(built).simulate(arrays), oracle_under(f, built.function, arrays)
    for name in f.results:
        report = check(found[name], expected[name])
        assert report.ok, f"{f.name}, {target.cores} cores: {name}: {report}"
    return built


@pytest.mark.parametrize("kernel", ["bn_relu_conv_stats", "conv_stats", "bn_relu_linear_stats"])
def test_random_shapes(kernel: str) -> None:
    used = []

    @settings(
        max_examples=4, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(shapes(), st.sampled_from(MACHINES), st.sampled_from(["normal", "shifted", "integer"]))
    def holds(sizes: dict[str, int], target: Machine, kind: str) -> None:
        f = specialised(kernel, target, **sizes)
        used.append(bool(products(assert_licensed(f, target, data.arguments(f, 2, kind)))))

    holds()
    assert any(used)


def test_ragged_columns_in_several_phases() -> None:
    """Tiles of 27 columns and one of 26; the rows that cores share leave some to a phase of their own."""
    f = specialised("bn_relu_conv_stats", MACHINES[1], N=1, C=33, H=13, W=11, K=80, R=5, S=1, pad=1)
    assert products(assert_licensed(f, MACHINES[1], data.arguments(f, 2, "normal")))


def stats(*sizes: int) -> Function:
    n, c, side, k = sizes
    return specialised("conv_stats", N=n, C=c, H=side, W=side, K=k, R=1, S=1, pad=0)


def simulated(f: Function, x: Array, w: Array) -> dict[str, Array]:
    built = driver.build(f, NPU, numerics=FAST)
    assert products(built)
    return dict(driver.npu_kernel(built).simulate({"x": x, "w": w}))


def test_digits_that_a_far_mean_costs() -> None:
    """With a mean of r standard deviations a variance has about r² fewer digits, and is never negative."""
    noise = np.random.default_rng(3).normal(size=(40, 2, 9, 9))
    w = np.eye(3, 2, dtype=np.float16).reshape(3, 2, 1, 1)
    for far, digits in ((1.0, 1e-5), (10.0, 1e-3), (100.0, 1e-1)):
        x = (noise / 64 * (1 + np.arange(2).reshape(1, 2, 1, 1)) + far / 64).astype(np.float16)
        found = simulated(stats(40, 2, 9, 3), x, w)
        exact = x.astype(np.float64)
        assert np.allclose(found["mean"][:2], exact.mean(axis=(0, 2, 3)), rtol=1e-5)
        assert np.allclose(found["m2"][:2] / 3240, exact.var(axis=(0, 2, 3)), rtol=digits)
        assert (found["m2"] >= 0).all()


def test_equal_values_and_one_of_them() -> None:
    """No spread at all: nothing, not less. Of one value the square is exact, and cancels as such."""
    w = np.full((3, 2, 1, 1), 0.3, np.float16)
    found = simulated(stats(40, 2, 9, 3), np.full((40, 2, 9, 9), 1.7, np.float16), w)
    assert (found["m2"] >= 0).all()
    assert (found["m2"] <= 1e-5 * 3240 * found["mean"] ** 2).all()
    alone = driver.build(stats(1, 2, 1, 3), NPU, numerics=FAST)
    x = np.full((1, 2, 1, 1), 1.7, np.float16)
    assert (driver.npu_kernel(alone).simulate({"x": x, "w": w})["m2"] == 0).all()


def test_what_is_not_finite_stays_in_its_column() -> None:
    """Blocks hold products of neighbours too; only the diagonal is looked at."""
    x = np.ones((2, 2, 9, 9), np.float16)
    x[1, 0, 4, 4] = 60000
    w = np.array([[0, 1], [60000, 1], [0, 1]], np.float16).reshape(3, 2, 1, 1)
    found = simulated(stats(2, 2, 9, 3), x, w)
    assert np.isinf(found["y"][1, 1, 4, 4])
    assert np.isfinite(found["m2"][[0, 2]]).all()
    assert not np.isfinite(found["m2"][1])


@pytest.mark.parametrize("target", MACHINES, ids=lambda m: f"{m.cores} cores")
def test_sums_as_written_need_no_licence(target: Machine) -> None:
    """The vector unit makes what is left for it beside them."""
    f = driver.specialise(_SUMS, "sums.k", target, None, {}, "f16")
    arrays = data.arguments(f, 1, "normal")
    built = driver.build(f, target)
    found, expected = driver.npu_kernel(built).simulate(arrays), oracle_under(f, f, arrays)
    assert len({i.dst[0].buffer for i in products(built)}) == 2
    assert any(i.opcode == "vector.reduce_max" for i, _ in instructions(built.module.run.body))
    for name in f.results:
        assert check(found[name], expected[name]).ok


def test_cores_that_are_apart_keep_their_moments() -> None:
    """Where the vector unit has no way back to the cube nothing is exchanged."""
    split = machine.load("ascend910b")
    built = driver.build(specialised("conv_stats", split), split, numerics=FAST)
    assert not products(built)
    assert any(op.monoid == "moments" for op in built.function.ops)
