"""Factors of an operand's channels that the cube applies under a licence: what they cost in digits, and where not."""

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
from opc.numerics import FAST, STRICT
from opc.program.ir import Instr, instructions
from opc.tensor.interpret import oracle_under
from opc.tensor.ir import Function
from tests.lowering.test_cube_sums import MACHINES, NPU, assert_licensed
from tests.lowering.test_roles import shapes, specialised

_SCALED = """
kernel scaled(x: T[M, C], s: f32[C], t: f32[C], param w: T[C, K]) -> (y: T[M, K]) {
  "A product whose operand is scaled and shifted by channel on the way in."
  example M = 600, C = 64, K = 16
  a[m, c] = T(f32(x[m, c]) * s[c] + t[c])
  y[m, k] = sum[c](a[m, c] * w[c, k])
}
"""
_BOTH = """
kernel both(x: T[M, C], z: T[M, C], s: f32[C], t: f32[C], r: f32[C], param w: T[C, K]) -> (y: T[M, K]) {
  "A product whose operand is what batch norm's gradient is: two values by channel, and a shift."
  example M = 300, C = 96, K = 16
  a[m, c] = T((x[m, c] - t[c]) * s[c] - z[m, c] * r[c])
  y[m, k] = sum[c](a[m, c] * w[c, k])
}
"""


def kernel(text: str, target: Machine = NPU, **sizes: int) -> Function:
    return driver.specialise(text, "x.k", target, None, sizes, "f16")


def combinations(built: Build) -> list[Instr]:
    """Products that make an operand."""
    found = [i for i, _ in instructions(built.module.run.body) if i.opcode == "cube.mma"]
    return [i for i in found if i.dst[0].buffer.startswith("combined")]


def scaled(x: Array, s: Array, t: Array) -> Array:
    """What the kernel makes of its operand: the weights copy the first 16 channels."""
    f = kernel(_SCALED, M=len(x), C=x.shape[1], K=16)
    built = driver.build(f, NPU, numerics=FAST)
    assert combinations(built)
    w = np.eye(x.shape[1], 16, dtype=np.float16)
    found: Array = driver.npu_kernel(built).simulate({"x": x, "s": s, "t": t, "w": w})["y"]
    return found


@pytest.mark.parametrize("name", ["bn_relu_conv_stats", "bn_relu_linear_stats"])
def test_random_shapes(name: str) -> None:
    used = []

    @settings(
        max_examples=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        shapes(), st.sampled_from([48, 80]), st.sampled_from([16, 21]), st.sampled_from(MACHINES[:2]),
        st.sampled_from(["normal", "shifted", "integer"]),
    )  # fmt: skip
    def holds(sizes: dict[str, int], channels: int, filters: int, target: Machine, kind: str) -> None:
        few = {
            "N": min(sizes["N"], 2),
            "H": min(sizes["H"], 9),
            "W": min(sizes["W"], 9),
            "M": sizes["M"] + 300,
        }
        f = specialised(name, target, **{**sizes, **few, "C": channels, "K": filters})
        used.append(bool(combinations(assert_licensed(f, target, data.arguments(f, 3, kind)))))

    holds()
    assert any(used)


@pytest.mark.parametrize("target", MACHINES[:2], ids=lambda m: f"{m.cores} cores")
@pytest.mark.parametrize("text", [_SCALED, _BOTH], ids=["one value", "two values"])
def test_against_the_bound(text: str, target: Machine) -> None:
    f = kernel(text, target)
    assert combinations(assert_licensed(f, target, data.arguments(f, 1, "normal")))


def test_digits() -> None:
    """Factors keep 22 of an f32's 24 digits where they are 1/8 or more, shifts all of them: seen where both cancel."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (600, 64)).astype(np.float16)
    s = rng.uniform(0.125, 4, 64).astype(np.float32)
    x[:, :16] = x[0, :16]
    near = (x[0].astype(np.float64) * s).astype(np.float16)
    t = (-near * (1 + rng.uniform(-1, 1, 64) / 1024)).astype(np.float32)
    exact = x.astype(np.float64) * s + t
    off = np.abs(scaled(x, s, t)[:, :16] - exact[:, :16])
    assert (off < np.abs(exact[:, :16]) * 2**-11 + np.abs(t[:16]) * 2**-21 + 2**-24).all()


def test_factors_at_the_ends_of_their_range() -> None:
    """Beyond it a result has no bound; small ones have an error of 2^-25, and the last digits of what they scale."""
    x = np.random.default_rng(1).uniform(-2, 2, (600, 64)).astype(np.float16)
    s = np.zeros(64, np.float32)
    s[:6] = 2.0**-10, 2.0**-14, 1e-6, 1e-9, 32000.0, -0.0
    t = np.zeros(64, np.float32)
    exact = x[:, :16].astype(np.float64) * s[:16]
    assert (
        np.abs(scaled(x, s, t) - exact) < np.abs(exact) * 2**-10 + np.abs(x[:, :16]) * 2**-25 + 2**-24
    ).all()
    f = kernel(_SCALED)
    built = driver.build(f, NPU, numerics=FAST)
    s[:] = 1e5
    arrays = {"x": x, "s": s, "t": t, "w": np.eye(64, 16, dtype=np.float16)}
    assert not np.isfinite(oracle_under(f, built.function, arrays)["y"].bound).any()


def test_shifts_at_the_ends_of_their_range() -> None:
    """Where they leave the range of f16 results are infinite, with the right sign; small ones lose nothing."""
    x = np.ones((600, 64), np.float16)
    s, t = np.ones(64, np.float32), np.zeros(64, np.float32)
    t[0] = 3e8
    infinite = scaled(x, s, t)
    assert np.isposinf(infinite[:, 0]).all()
    t[0] = -np.inf
    assert np.isneginf(scaled(x, s, t)[:, 0]).all()
    t[:16] = 60000.0, -60000.0, 2.0**-20, 3e-6, 1 / 3, 1e-3, *[0.0] * 10
    assert (scaled(0 * x, s, t) == t[:16].astype(np.float16)).all()


def test_what_is_not_finite_stays_in_its_row_and_block() -> None:
    """Zeros off the diagonal make NaN of it for the channels beside it, of that position alone."""
    x = np.ones((600, 64), np.float16)
    x[7, 20] = np.inf
    s, t = np.full(64, 2, np.float32), np.full(64, 1, np.float32)
    w = np.zeros((64, 16), np.float16)
    f = kernel(_SCALED)
    built = driver.build(f, NPU, numerics=FAST)
    found = driver.npu_kernel(built).simulate({"x": x, "s": s, "t": t, "w": w + np.float16(1)})["y"]
    assert np.isnan(found[7]).all()
    assert (np.delete(found, 7, 0) == 192).all()


def test_only_with_a_licence_and_where_the_pipe_with_the_most_work_gets_less() -> None:
    """As many columns as channels keep the cube busier than the vector unit; a strict kernel stays as written."""
    assert combinations(driver.build(kernel(_SCALED), NPU, numerics=FAST))
    assert not combinations(driver.build(kernel(_SCALED), NPU, numerics=STRICT))
    assert not combinations(driver.build(kernel(_SCALED, M=64, C=1024, K=512), NPU, numerics=FAST))
    assert not combinations(driver.build(kernel(_SCALED, C=72), NPU, numerics=FAST))
    split = machine.load("ascend910b")
    assert not combinations(driver.build(kernel(_SCALED, split), split, numerics=FAST))


def test_factors_of_the_cubes_type_are_taken_as_they_are() -> None:
    text = _SCALED.replace("s: f32[C], t: f32[C]", "s: T[C], t: T[C]")
    f = kernel(text)
    assert combinations(assert_licensed(f, NPU, data.arguments(f, 4, "normal")))
    assert not combinations(driver.build(f, NPU, numerics=STRICT))


@pytest.mark.parametrize("space", ["l1", "l0a", "l0b", "l0c", "ub"])
def test_where_there_is_no_room_the_vector_unit_combines(space: str) -> None:
    """A memory that holds a tile of the product and no more."""
    least = {"l1": 8192, "l0a": 1024, "l0b": 1024, "l0c": 2048, "ub": 8192}[space]
    spaces = {n: replace(s, capacity=least) if n == space else s for n, s in NPU.spaces.items()}
    f = kernel(_SCALED, M=100)
    target = replace(NPU, spaces=spaces)
    assert_licensed(f, target, data.arguments(f, 5, "normal"))
