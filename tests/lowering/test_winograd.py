"""Winograd convolutions: every tile size, blocking, dtype and thread count stays within the bound of the licence."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import data, driver, machine
from opc.arrays import Array
from opc.build import Build, run_passes
from opc.machine.model import Machine
from opc.pipeline import FAST, STRICT, Pass
from opc.program.ir import instructions
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import evaluate, oracle_under
from opc.tensor.ir import Function
from opc.tensor.verify import verify
from passes import load
from passes.lowering._knobs import parse_plans
from passes.lowering.candidates import candidates
from passes.tensor._toom_cook import SIZES, TAPS, filter_of
from tests.lowering.test_machine_code import run_module

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=4, derandomize=True)
HOST = machine.load("avx2")
KINDS = ("normal", "constant", "integer", "shifted", "adversarial")


def convolution(
    kernel: str = "conv_bn_relu", dtype: str = "f32", layout: str = "nhwc", **sizes: Any
) -> Function:
    return driver.specialise(kernels_dsl.source(kernel), kernel, HOST, kernel, sizes, dtype, layout)


def rewritten(function: Function, tile: int, target: Machine = HOST) -> Function:
    """After the tensor passes, with tiles of this size whatever they cost."""
    passes: list[Pass] = [
        load("winograd")(tile=tile) if p.name == "winograd" else p
        for p in driver.pipeline("tensor")  # type: ignore[call-arg]
    ]
    found: Function = run_passes(function, passes, target, numerics=FAST)[0]
    return found


def built(function: Function, licensed: Function, plans: str = "", target: Machine = HOST) -> Build:
    """A build of ``licensed`` with the given plan of its chain."""
    tile = load("tile")(plans=plans)  # type: ignore[call-arg]
    lowering = [tile if p.name == "tile" else p for p in driver.pipeline("lowering")]
    tiled, _ = run_passes(licensed, lowering, target, numerics=FAST)
    module, _ = run_passes(tiled, driver.pipeline("program"), target, numerics=FAST)
    return Build(target, function, licensed, tiled, module, (), FAST)


def is_rewritten(function: Function) -> bool:
    return any(len(op.pieces) > 1 for op in function.ops)


def call(build: Build, arrays: dict[str, Array], threads: int = 1) -> Array:
    found: Array = driver.callable_kernel(build, threads).results(arrays)["y"]
    return found


@pytest.mark.parametrize("m", SIZES)
def test_minimal_filters(m: int) -> None:
    f = filter_of(m)
    outputs, taps, inputs = (np.array(x, dtype=object) for x in (f.outputs, f.taps, f.inputs))
    d, g = np.arange(1, m + TAPS, dtype=object) ** 2, np.array([3, -5, 7], dtype=object)
    assert list(outputs @ ((taps @ g) * (inputs @ d))) == [d[i : i + TAPS] @ g for i in range(m)]


@pytest.mark.parametrize("m", SIZES)
@settings(QUIET)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(2, 13), st.integers(2, 13)),
    channels=st.integers(2, 70),
    columns=st.integers(1, 40),
    pad=st.integers(0, 2),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["f32", "f32", "f64"]),
)
def test_random_shapes(
    m: int, n: int, size: tuple[int, int], channels: int, columns: int, pad: int, kind: str, dtype: str
) -> None:
    h, w = (max(e, TAPS - 2 * pad + 1) for e in size)
    function = convolution(dtype=dtype, N=n, C=channels, H=h, W=w, K=columns, pad=pad)
    licensed = rewritten(function, m)
    arrays = data.arguments(function, 1, kind)
    build = built(function, licensed)
    report = check(call(build, arrays, threads=2), build.oracle(arrays)["y"])
    assert report.ok, str(report)


@pytest.mark.parametrize("m", SIZES)
def test_every_plan_gives_the_same_bits(m: int) -> None:
    function = convolution("conv_bn_add_relu", N=2, C=9, H=10, W=6, K=17)
    licensed = rewritten(function, m)
    assert is_rewritten(licensed)
    arrays = data.arguments(function, 2)
    plans = candidates(licensed, HOST, 4)[::2]
    assert len(plans) > 1
    found = [call(built(function, licensed, p), arrays, threads) for p in plans for threads in (1, 2)]
    assert all((y == found[0]).all() for y in found)


@pytest.mark.parametrize(("channels", "size"), [(3, 6), (64, 56)])
def test_every_plan_of_a_chain_can_be_asked_for(channels: int, size: int) -> None:
    licensed = rewritten(convolution(N=1, C=channels, H=size, W=size, K=64), 4)
    for plan in candidates(licensed, HOST, 1000):
        assert ";".join(map(str, parse_plans(plan))) == plan


@pytest.mark.parametrize("name", ["portable", "avx512", "amx"])
@pytest.mark.parametrize("m", SIZES)
def test_machine_code(m: int, name: str) -> None:
    target = machine.load(name)
    function = convolution(N=1, C=20, H=9, W=7, K=33)
    licensed = rewritten(function, m, target)
    arrays = random_inputs(function, 3)
    expected = oracle_under(function, licensed, arrays)["y"]
    for plan in candidates(licensed, target, 2):
        tiled = built(function, licensed, plan, target).tiled
        report = check(run_module(tiled, function, name, arrays, 2)["y"], expected)
        assert report.ok, f"{plan}: {report}"


@pytest.mark.parametrize("spoil", ["pixel", "lognormal", "channel"])
def test_outliers_stay_within_the_bound(spoil: str) -> None:
    function = convolution(N=1, C=64, H=12, W=12, K=16)
    licensed = rewritten(function, 4)
    arrays = data.arguments(function)
    x = arrays["x"]
    if spoil == "pixel":
        x[:, :, 5, 6] *= 1000
    elif spoil == "channel":
        x[:, 3] *= 1e4
    else:
        x[...] = np.exp(3 * x)
    build = built(function, licensed)
    report = check(call(build, arrays), build.oracle(arrays)["y"])
    assert report.ok, str(report)


def test_small_integers_are_exact_where_the_transform_is() -> None:
    text = "kernel f(x: T[N,C,H,W], param w: T[K,C,3,3]) -> (y: T[N,K,H,W]) {\n  y = conv2d(x, w, pad=1)\n}"
    sizes = {"N": 1, "C": 7, "H": 9, "W": 8, "K": 12}
    function = driver.specialise(text, "f.k", HOST, "f", sizes, "f32", "nhwc")
    licensed = rewritten(function, 2)
    rng = np.random.default_rng(0)
    arrays = data.arguments(function)
    for name in ("x", "w"):
        arrays[name][...] = rng.integers(-8, 9, arrays[name].shape)
    assert is_rewritten(licensed)
    assert (call(built(function, licensed), arrays) == evaluate(function, arrays)["y"]).all()


@pytest.mark.parametrize(
    ("numerics", "changes"),
    [
        (STRICT, {}),
        (FAST, {"dtype": "bf16"}),
        (FAST, {"dtype": "f16"}),
        (FAST, {"layout": "nchw"}),
        (FAST, {"stride": 2}),
        (FAST, {"R": 1, "S": 1, "pad": 0}),
    ],
)
def test_where_it_does_not_apply(numerics: str, changes: dict[str, Any]) -> None:
    function = convolution(**{"N": 1, "C": 64, "H": 56, "W": 56, "K": 64, **changes})
    found, _ = run_passes(function, driver.pipeline("tensor"), HOST, numerics=numerics)
    assert not is_rewritten(found)


def test_cost_decides() -> None:
    def by_cost(**sizes: int) -> Function:
        found: Function = run_passes(convolution(**sizes), driver.pipeline("tensor"), HOST, numerics=FAST)[0]
        return found

    large = by_cost(N=1, C=64, H=56, W=56, K=64)
    assert "p_f<6" in re.sub(r"\s", "", driver_text(large))
    assert not is_rewritten(by_cost(N=1, C=4, H=8, W=8, K=4))


def driver_text(function: Function) -> str:
    from opc.build import text_of

    return text_of(function)


def test_a_chain_is_checked() -> None:
    licensed = rewritten(convolution(N=1, C=16, H=12, W=12, K=16), 4)
    verify(licensed)
    chain = [op for op in licensed.ops if op.group == licensed.ops[-1].group]
    assert len(chain) == 5, "input transform twice, products, output transform twice with the epilogue"
    mixed = [replace(op, group=chain[0].group) if op.name == "y_prepared" else op for op in licensed.ops]
    with pytest.raises(Exception, match="E054"):
        verify(licensed.with_ops(tuple(mixed)))


@pytest.mark.parametrize("sizes", [(64, 56), (128, 28), (512, 7)])
def test_products_fit_the_registers(sizes: tuple[int, int]) -> None:
    c, h = sizes
    build = driver.build(convolution(N=1, C=c, H=h, W=h, K=c), HOST, numerics=FAST)
    assert is_rewritten(build.function)
    lanes = HOST.vector_bytes // 4
    products = [i for i, _ in instructions(build.module.run.body) if i.opcode == "cube.mma"]
    accumulators = [
        i.extents.get("t", 1) * (-(-i.extents["k_i"] // lanes)) * i.extents.get("k_b", 1) for i in products
    ]
    assert products
    assert max(accumulators) <= HOST.limits["accumulator_registers"]
    # Weights come from afar: every block of sums fetches a part of the next panel.
    fetches = [i for i, _ in instructions(build.module.run.body) if i.op == "prefetch"]
    assert len(fetches) == len(products)
