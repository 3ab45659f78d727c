"""Sums of outer products, which weight gradients are: values, bits on any number of threads, plans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc import data, driver, machine
from opc.dtypes import DType
from opc.program.ir import Loop, Module, instructions
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from opc.tensor.text import parse_function
from tests.cpu import tile_trap
from tests.lowering.test_lowering import lowered
from tests.lowering.test_machine_code import run

GRADIENT = """
kernel gradient(x: T[N, C, H, W], dy: T[N, K, P, Q], R: int, S: int, stride: int, pad: int, dilation: int)
    -> (dw: T[K, C, R, S]) {
  dw[k, c, r, s] = sum[n, p, q](
      dy[n, k, p, q] * (x[n, c, p*stride + r*dilation - pad, q*stride + s*dilation - pad] else 0))
}
"""


def gradient(dtype: str = "f32", layout: str | None = "nhwc", **sizes: int) -> Function:
    return driver.specialise(GRADIENT, "gradient", machine.load("avx2"), None, sizes, dtype, layout)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    channels = st.one_of(st.integers(2, 20), st.sampled_from([16, 31, 33, 48]))
    small, window = st.integers(2, 9), st.integers(1, 4)
    sizes = {name: draw(channels) for name in "CK"} | {name: draw(window) for name in "RS"}
    sizes |= {"stride": draw(st.integers(1, 3)), "pad": draw(st.integers(0, 2)), "N": draw(st.integers(1, 9))}
    sizes |= {"P": draw(small), "Q": draw(st.one_of(small, st.just(70))), "dilation": draw(st.integers(1, 2))}
    for image, size, window_size in (("H", "P", "R"), ("W", "Q", "S")):
        reach = sizes["stride"] * (sizes[size] - 1) + sizes["dilation"] * (sizes[window_size] - 1) + 1
        sizes[image] = max(1, reach - 2 * sizes["pad"])
    return sizes


@pytest.mark.parametrize("pad", [0, 1])
def test_products_of_padded_images_go_to_the_cube(pad: int) -> None:
    """A copy of what lies near fills what is read beyond an edge."""
    size = 6 + 2 * pad
    function = gradient(N=2, C=32, K=32, H=8, W=8, R=3, S=3, P=size, Q=size, dilation=1, stride=1, pad=pad)
    module = lowered(function, "avx2")
    assert any(i.opcode == "cube.mma" for i, _ in instructions(module.run.body))


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(shapes(), st.sampled_from(["f32", "f32", "bf16", "f64"]), st.sampled_from(["nhwc", None]))
def test_random_shapes_on_any_number_of_threads(
    sizes: dict[str, int], dtype: str, layout: str | None
) -> None:
    function = gradient(dtype, layout, **sizes)
    arrays = data.arguments(function, 5, "normal")
    expected, built = oracle(function, arrays), driver.build(function, machine.load("avx2"))
    one, three = (driver.callable_kernel(built, n).results(arrays)["dw"] for n in (1, 3))
    report = check(one, expected["dw"])
    assert report.ok, str(report)
    assert np.asarray(one).tobytes() == np.asarray(three).tobytes()


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(shapes(), st.sampled_from(["nhwc", None]))
def test_random_shapes_in_pairs(sizes: dict[str, int], layout: str | None) -> None:
    """Two terms at once, of images where windows slide over their pixels; odd numbers of them are filled up."""
    target = machine.load("avx512bf16")
    function = driver.specialise(GRADIENT, "gradient", target, None, sizes, "bf16", layout)
    arrays = data.arguments(function, 5, "normal")
    expected = oracle(function, arrays)
    one, three = (run(function, "avx512bf16", arrays, threads)["dw"] for threads in (1, 3))
    report = check(one, expected["dw"])
    assert report.ok, str(report)
    assert one.tobytes() == three.tobytes()


def test_pairs_of_terms_are_copied_side_by_side() -> None:
    sizes = {"N": 8, "C": 64, "H": 14, "W": 14, "K": 64, "P": 14, "Q": 14, "R": 3, "S": 3}
    sizes |= {"stride": 1, "pad": 1, "dilation": 1}
    target = machine.load("avx512bf16")
    function = driver.specialise(GRADIENT, "gradient", target, None, sizes, "bf16", "nhwc")
    module = lowered(function, "avx512bf16")
    near = {b.name: b for b in module.run.buffers if "near" in b.name}
    assert near
    assert all(b.dtype is DType.BF16 and b.shape[-1] == 2 for b in near.values())


def test_integers_are_exact() -> None:
    function = gradient(N=8, C=20, H=19, W=19, K=21, P=10, Q=10, R=3, S=3, stride=2, pad=1, dilation=1)
    arrays = data.arguments(function, 1, "integer")
    found = driver.callable_kernel(driver.build(function, machine.load("avx2")), 2).results(arrays)
    expected = oracle(function, arrays)["dw"]
    assert np.array_equal(found["dw"], np.asarray(expected.value, np.float32))


def long_sum(terms: int, rows: int, columns: int) -> Module:
    text = f"""func v1 f {{
      arg x: f32[{terms},{columns}] input
      arg dy: f32[{terms},{rows}] input
      op dw: f32[{rows},{columns}] sum accumulate f32 {{
        piece k<{rows}, c<{columns} reduce n<{terms} at k, c = mul(dy[n, k], x[n, c])
      }}
      return dw
    }}"""
    return lowered(parse_function(text), "avx2")


def test_a_long_sum_is_shared_out_and_merged() -> None:
    first, last = long_sum(25088, 64, 64).run.body
    assert isinstance(first, Loop)
    assert isinstance(last, Loop)
    assert first.parallel
    assert first.extent == 16
    chains = {i.chain for i, _ in instructions(first.body) if i.opcode == "cube.mma"}
    assert chains == {25088 // 16}
    assert any(i.op == "reduce_sum" for i, _ in instructions(last.body))


def test_a_short_sum_shares_out_the_result() -> None:
    (only,) = long_sum(512, 1024, 512).run.body
    assert isinstance(only, Loop)
    assert only.parallel
    assert only.extent > 1


@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_operands_are_copied_once_per_chunk_and_not_per_window(name: str) -> None:
    function = gradient(N=8, C=64, H=28, W=28, K=64, P=28, Q=28, R=3, S=3, stride=1, pad=1, dilation=1)
    module = lowered(function, name)
    moved = sum(
        np.prod([n for _, n in i.dims]) * np.prod([loop.extent for loop in loops])
        for i, loops in instructions(module.run.body)
        if i.opcode == "copy_in.copy"
        and i.dst[0].buffer.endswith(tuple(f"near{n}" for n in ("", "_1", "_2")))
    )
    assert moved < 1.5 * 2 * 8 * 64 * 28 * 28


@pytest.mark.parametrize("layout", ["nhwc", None])
def test_a_convolution_with_weights_of_the_run_is_none(layout: str | None) -> None:
    text = """kernel f(x: T[N, C, H, W], w: T[K, C, 3, 3]) -> (y: T[N, K, H, W]) {
      y[n, k, p, q] = sum[c, r < 3, s < 3]((x[n, c, p + r - 1, q + s - 1] else 0) * w[k, c, r, s]) }"""
    sizes = {"N": 4, "C": 32, "H": 14, "W": 14, "K": 32}
    function = driver.specialise(text, "f", machine.load("avx2"), None, sizes, "f32", layout)
    module = lowered(function, "avx2")
    assert all(i.init is not None for i, _ in instructions(module.run.body) if i.opcode == "cube.mma")


SMALL = {"P": 6, "Q": 6, "pad": 1, "dilation": 1}


@pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")
@pytest.mark.parametrize(
    "sizes",
    [
        {"N": 8, "C": 40, "K": 33, "R": 3, "S": 3, "H": 16, "W": 16, "P": 16, "Q": 16, "stride": 1},
        {"N": 2, "C": 32, "K": 16, "R": 3, "S": 3, "H": 12, "W": 12, "stride": 2},
        {"N": 3, "C": 20, "K": 70, "R": 1, "S": 1, "H": 6, "W": 6, "stride": 1, "pad": 0},
        {"N": 8, "C": 33, "K": 17, "R": 1, "S": 1, "H": 18, "W": 18, "P": 18, "Q": 18, "stride": 1, "pad": 0},
        {"N": 1, "C": 3, "K": 32, "R": 5, "S": 5, "H": 13, "W": 13, "stride": 2, "pad": 2},
    ],
    ids=["long", "strided", "1x1", "long-1x1", "few-channels"],
)
def test_on_tiles(
    sizes: dict[str, int], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = machine.load("amx")
    function = driver.specialise(GRADIENT, "gradient", target, None, {**SMALL, **sizes}, "bf16", "nhwc")
    arrays = data.arguments(function, 2, "normal")
    with tile_trap.trapping(tmp_path_factory.getbasetemp(), monkeypatch) as trapped:
        one, two = (run(function, "amx", arrays, threads, tiles=True)["dw"] for threads in (1, 2))
    assert trapped.faults == 0, trapped.message
    assert trapped.counts["tdpbf16ps"] > 0
    report = check(one, oracle(function, arrays)["dw"])
    assert report.ok, str(report)
    assert one.tobytes() == two.tobytes()
