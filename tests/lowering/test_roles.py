"""Contractions whose operand is made while it is loaded and whose result is summed up while it is on chip."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import driver, machine, npu
from opc.build import run_passes
from opc.lang import kernel_info
from opc.machine.model import Machine
from opc.pipeline import Context
from opc.program.ir import Module
from opc.tensor.ir import Function
from passes.tensor._groups import groups
from passes.tensor.fuse import Fuse
from tests.e2e.oracle import assert_correct

NPU = machine.load("ascend910")
KERNELS = ("bn_relu_conv_stats", "bn_relu_conv", "conv_stats", "bn_relu_linear_stats")


def specialised(kernel: str, target: Machine = NPU, layout: str | None = "nhwc", **sizes: int) -> Function:
    text, file = kernels_dsl.source(kernel), f"{kernel}.k"
    info = kernel_info(text, file, kernel)
    known = {*info.symbols, *(a.name for a in info.attributes)}
    chosen = {name: value for name, value in sizes.items() if name in known}
    return driver.specialise(text, file, target, kernel, chosen, target.default_dtype, layout)


def small(stage: int, operand: int, accumulator: int, vector: int, cores: int) -> Machine:
    """An NPU with so little memory that even small problems have many tiles."""
    room = {"l1": stage, "l0a": operand, "l0b": operand, "l0c": accumulator, "ub": vector}
    spaces = {n: replace(s, capacity=room.get(n, s.capacity)) for n, s in NPU.spaces.items()}
    return replace(NPU, spaces=spaces, cores=cores)


MACHINES = (NPU, small(65536, 8192, 32768, 32768, 4), small(16384, 4096, 16384, 16384, 2))


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    window = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]))
    sizes = {"N": draw(st.integers(1, 5)), "R": window[0], "S": window[1]}
    sizes |= {"H": draw(st.integers(5, 14)), "W": draw(st.integers(5, 14)), "M": draw(st.integers(1, 200))}
    sizes |= {"C": draw(st.sampled_from([1, 3, 16, 33])), "K": draw(st.sampled_from([1, 16, 21, 40]))}
    return sizes | {"stride": draw(st.integers(1, 3)), "pad": draw(st.integers(0, 2))}


@pytest.mark.parametrize("kernel", KERNELS)
def test_random_shapes(kernel: str) -> None:
    @settings(
        max_examples=6, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(shapes(), st.sampled_from(MACHINES), st.sampled_from(["normal", "shifted", "integer"]))
    def holds(sizes: dict[str, int], target: Machine, kind: str) -> None:
        assert_correct(specialised(kernel, target, **sizes), target, seed=2, kind=kind)

    holds()


def test_padding_is_zero_after_the_work_on_the_operand() -> None:
    """With an offset of one, padding that was normalised would show; tiles end inside the image and at its edges."""
    f = specialised("bn_relu_conv", MACHINES[1], N=1, C=16, H=13, W=9, K=16, R=3, S=3, pad=2)
    arrays = {
        "x": np.zeros((1, 16, 13, 9), np.float16),
        "w": np.ones((16, 16, 3, 3), np.float16),
        "gamma": np.ones(16, np.float32),
        "beta": np.ones(16, np.float32),
        "mean": np.zeros(16, np.float32),
        "var": np.ones(16, np.float32),
    }
    built = driver.build(f, MACHINES[1])
    assert len(groups(built.function)) == 2  # what packs the weights, and everything else
    found = driver.npu_kernel(built).simulate(arrays)["y"]
    rows, columns = ([min(3, i + 1, n + 2 - i) for i in range(n + 2)] for n in (13, 9))
    assert (found[0, 0] == 16 * np.outer(rows, columns)).all()


def test_statistics_far_from_zero() -> None:
    """Mean 1e4, standard deviation 1: a difference of squares would have no digit left."""
    f = specialised("conv_stats", N=40, C=2, H=9, W=9, K=3, R=1, S=1, pad=0)
    x = np.random.default_rng(3).normal(size=(40, 2, 9, 9)).astype(np.float16)
    x[:, 0] = 1e4
    w = np.ones((3, 2, 1, 1), np.float16)
    found = driver.npu_kernel(driver.build(f, NPU)).simulate({"x": x, "w": w})
    exact = x.astype(np.float64).sum(axis=1)
    assert np.allclose(found["mean"], exact.mean(), rtol=1e-6)
    assert np.allclose(found["m2"] / exact.size, exact.var(), rtol=2e-3)


def test_rules_can_be_switched_off() -> None:
    f, _ = run_passes(specialised("bn_relu_conv_stats"), driver.pipeline("tensor")[:-1], NPU)

    def count(**options: bool) -> int:
        return sum(not g.prepare for g in groups(Fuse(**options).run(f, Context(NPU))))

    assert count() == 1
    assert count(prologue=False) == count(statistics=False) == 2
    assert count(prologue=False, statistics=False) == 3


@cache
def tiled(fused: bool) -> Module:
    """Ends of the second stage of ResNet-50, one image a core."""
    f = specialised("bn_relu_conv_stats", N=32, C=64, H=28, W=28, K=64)
    fuse = Fuse(prologue=fused, statistics=fused)
    tensor = [fuse if p.name == "fuse" else p for p in driver.pipeline("tensor")]
    lowered, _ = run_passes(f, tensor, NPU)
    module, _ = run_passes(lowered, driver.pipeline("lowering"), NPU)
    assert isinstance(module, Module)
    return module


@cache
def cycles(fused: bool, reordered: bool) -> float:
    steps = [p for p in driver.pipeline("program") if reordered or p.name not in driver.REORDERING]
    module, _ = run_passes(tiled(fused), steps, NPU)
    assert isinstance(module, Module)
    listing = npu.parse_listing(npu.print_listing(npu.emit(module.run, NPU)))
    npu.prove(listing, NPU)
    return npu.time(listing, NPU).cycles


def test_fusion_saves_cycles() -> None:
    assert cycles(True, True) * 1.4 < cycles(False, True)


def test_order_pays_where_one_pipe_has_two_roles() -> None:
    assert cycles(True, True) * 1.2 < cycles(True, False)
