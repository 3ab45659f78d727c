"""Rows, windows and pointwise kernels at every ragged length, in every float type, streamed, on two threads."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kernels_dsl
from opc import data, driver, machine
from opc.cpu import aot, features
from opc.cpu.kernel import lower
from opc.machine.model import Machine
from opc.program.ir import instructions
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from tests.e2e.oracle import results

FLOATS = ("f32", "f16", "bf16")
LENGTHS = range(1, 71)
ROWS = ("softmax", "layer_norm", "gelu")
IMAGES = ("max_pool2d", "avg_pool2d", "batch_norm", "global_avg_pool", "batch_stats")
HOST = features.pick_machine()


def streaming(name: str) -> Machine:
    """The machine with a last-level cache so small that every result is stored past it."""
    target = machine.load(name)
    return replace(target, limits={**target.limits, "l3_bytes": 1})


def specialise(name: str, target: Machine, sizes: dict[str, Any], dtype: str, layout: str = "") -> Function:
    return driver.specialise(kernels_dsl.source(name), name, target, None, sizes, dtype, layout or None)


def hold(function: Function, target: Machine) -> None:
    """One and two threads give the same bits, within the bound."""
    arrays = data.arguments(function, 1, "normal")
    copies = [{n: a.copy(order="K") for n, a in arrays.items()} for _ in range(2)]
    found = [results(function, target, copy, n) for n, copy in enumerate(copies, 1)]
    expected = oracle(function, arrays)
    for name in function.results:
        report = check(found[0][name], expected[name])
        assert report.ok, f"{name}: {report}"
        assert found[0][name].tobytes() == found[1][name].tobytes()


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_every_length(length: int) -> None:
    name, dtype = ROWS[length % 3], FLOATS[length // 3 % 3]
    target = streaming(HOST) if length % 2 else machine.load(HOST)
    hold(specialise(name, target, {"M": 5, "N": length}, dtype), target)


@pytest.mark.parametrize("length", LENGTHS)
def test_images_of_every_width(length: int) -> None:
    name, dtype = IMAGES[length % 5], FLOATS[length // 5 % 3]
    layout, streamed = ("nchw", "nhwc")[length % 2], length // 2 % 2
    target = streaming(HOST) if streamed else machine.load(HOST)
    sizes = {"N": 2, "C": 3, "H": 5, "W": length + 1} if layout == "nchw" else {"C": length, "H": 5, "W": 6}
    hold(specialise(name, target, {"N": 2, **sizes}, dtype, layout), target)


@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
@pytest.mark.parametrize("length", [500, 1027])
def test_long_rows(name: str, length: int) -> None:
    target = streaming(HOST)
    hold(specialise(name, target, {"M": 3, "N": length}, "f32"), target)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_windows_over_wide_images(layout: str, size: int) -> None:
    target = streaming(HOST)
    sizes = {"N": 1, "C": 4, "H": 9, "W": 203, "size": size, "pad": size // 2}
    hold(specialise("max_pool2d", target, sizes, "f32", layout), target)


SLIDING = """
kernel sliding(
  x: T[N, C, H, W], r: int = 2, s: int = 2, step: int = 1, pace: int = 1, pad: int = 0
) -> (y: T[N, C, P, Q]) {
  "Sums of windows whose positions lie `pace` apart."
  require step >= 1 "the step is positive"
  let P = (H + 2*pad - pace*(r - 1) - 1) // step + 1
  let Q = (W + 2*pad - pace*(s - 1) - 1) // step + 1
  y[n, c, p, q] = sum[i < r, j < s](x[n, c, p*step + i*pace - pad, q*step + j*pace - pad] else 0) * 0.5
}
"""


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("window", [(2, 2, 1), (3, 3, 1), (2, 5, 1), (3, 4, 2), (2, 3, 3)])
def test_windows_that_slide_by_any_step(window: tuple[int, int, int], step: int) -> None:
    r, s, pace = window
    target = streaming(HOST) if (r + step) % 2 else machine.load(HOST)
    sizes = {"N": 2, "C": 8 * s + step, "H": 13, "W": 17, "r": r, "s": s, "step": step, "pace": pace}
    dtype, layout = FLOATS[(s + step) % 3], ("nhwc", "nhwc", "nchw")[(r + s) % 3]
    sizes["pad"] = (r + step) % 2
    hold(driver.specialise(SLIDING, "sliding", target, None, sizes, dtype, layout), target)


def test_results_in_place_are_not_streamed() -> None:
    target = streaming(HOST)
    function = specialise("sgd", target, {"N": 1000}, "f32")
    program = driver.build(function, target).module.run
    assert not [i for i, _ in instructions(program.body) if i.hint and i.dst[0].buffer in ("w", "m")]
    hold(function, target)


@pytest.mark.parametrize(("name", "fetches"), [("relu", 1), ("batch_norm", 1), ("add", 0)])
def test_operands_are_fetched_ahead_where_no_more_is_read_than_stored(name: str, fetches: int) -> None:
    target = streaming("avx2")
    target = replace(target, limits={**target.limits, "l3_bytes": 1 << 14})
    sizes = {"N": 4, "C": 64, "H": 16, "W": 16}
    program = driver.build(specialise(name, target, sizes, "f32", "nhwc"), target).module.run
    assert sum(i.op == "prefetch" for i, _ in instructions(program.body)) == fetches


def test_streamed_stores_bypass_the_caches_where_lines_allow() -> None:
    target = streaming("avx2")
    function = specialise("relu", target, {"N": 1, "C": 2, "H": 16, "W": 64}, "f32")
    kernel = driver.callable_kernel(driver.build(function, target), 1)
    assert "!nontemporal" in kernel.llvm_ir
    x = np.random.default_rng(0).standard_normal((1, 2, 16, 64)).astype(np.float32)
    room = np.zeros(x.size + 64, np.float32)
    for shift in range(16):
        room[:] = 0
        out = room[shift : shift + x.size].reshape(x.shape)
        kernel(x, out=out)
        assert np.array_equal(out, np.maximum(x, 0))
        assert not room[:shift].any()
        assert not room[shift + x.size :].any()


@pytest.mark.parametrize("name", ["avx2", "avx512"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_no_conversion_swallows_a_streamed_store(dtype: str, name: str) -> None:
    target = streaming(name)
    function = specialise("relu", target, {"N": 1, "C": 2, "H": 16, "W": 64}, dtype)
    module = driver.build(function, target).module
    unit = lower(module.prepare, module.run, target, triple="x86_64-unknown-linux-gnu")
    stored = re.findall(r"\bvmovnt\w+\s+%([xyz])mm", aot.emit_assembly(unit))
    assert sum({"x": 16, "y": 32, "z": 64}[size] for size in stored) >= target.line_bytes


@pytest.mark.parametrize("features_", [("avx2", "fma", "f16c"), ("avx2", "fma", "f16c", "avx512f"), ()])
@pytest.mark.parametrize("dtype", FLOATS)
def test_vectors_may_be_wider_than_registers(dtype: str, features_: tuple[str, ...]) -> None:
    target = replace(streaming("avx512"), features=features_)
    function = specialise("relu", target, {"N": 1, "C": 2, "H": 16, "W": 64}, dtype)
    module = driver.build(function, target).module
    unit = lower(module.prepare, module.run, target, triple="x86_64-unknown-linux-gnu")
    assert aot.emit_object(unit)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", FLOATS)
def test_streams_of_any_alignment_on_several_threads(dtype: str, threads: int) -> None:
    target = streaming(HOST)
    function = specialise("add", target, {"N": 1, "C": 1, "H": 499, "W": 303}, dtype)
    kernel = driver.callable_kernel(driver.build(function, target), threads)
    a, b = data.arguments(function, 2, "normal").values()
    expected = kernel(a, b)
    room = np.zeros(a.size + 80, a.dtype)
    for shift in (1, 4, 31, 40):
        room[:] = 0
        out = room[shift : shift + a.size].reshape(a.shape)
        kernel(a, b, out=out)
        assert out.tobytes() == expected.tobytes()
        assert not room[:shift].any()
        assert not room[shift + a.size :].any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_results_off_a_line_are_the_same(dtype: str) -> None:
    target = streaming(HOST)
    kernel = driver.callable_kernel(
        driver.build(specialise("layer_norm", target, {"M": 3, "N": 200}, dtype), target), 1
    )
    arrays = {n: kernel.empty(n) for n in ("x", "gamma", "beta")}
    for n, array in enumerate(arrays.values()):
        array[...] = np.random.default_rng(n).standard_normal(array.shape)
    on, room = kernel.empty("y"), np.zeros(700, arrays["x"].dtype)
    off = room[1:601].reshape(3, 200)
    for out in (on, off):
        kernel(*arrays.values(), out=out)
    assert on.tobytes() == off.tobytes()


@pytest.mark.parametrize("name", ["avx2", "portable"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_nan_wins_in_windows_wherever_it_stands(name: str, layout: str) -> None:
    target = machine.load(name)
    if features.missing(target):
        pytest.skip(f"this computer is no {name}")
    sizes = {"N": 1, "C": 16, "H": 12, "W": 12}
    function = specialise("max_pool2d", target, sizes, "f32", layout)
    kernel = driver.callable_kernel(driver.build(function, target), 1)
    x = kernel.empty("x")
    x[...] = np.random.default_rng(3).standard_normal(x.shape)
    x[np.random.default_rng(4).random(x.shape) < 0.1] = np.nan
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = [wide[:, :, r : r + 11 : 2, s : s + 11 : 2] for r in range(3) for s in range(3)]
    assert np.array_equal(kernel(x), np.max(np.stack(windows), axis=0), equal_nan=True)
