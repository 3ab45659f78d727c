"""Functional simulation: every mnemonic against NumPy, the sample against a direct convolution."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from opc import npu
from opc.errors import ListingError
from opc.npu.alu import matmul
from tests.npu.samples import barriers, machine, place, sample

TYPES = {"f16": np.float16, "f32": np.float32, "i8": np.int8, "i32": np.int32}


def run(
    line: str, x: np.ndarray, out: str, shape: tuple[int, ...], w: np.ndarray | None = None
) -> np.ndarray:
    """Load x to ub 0 (and w to ub 65536), run ``line``, store ub 131072."""
    x, names = np.asarray(x), {np.dtype(v): k for k, v in TYPES.items()}
    arrays = {"x": x.reshape(-1)} | ({"w": w.reshape(-1)} if w is not None else {})
    text = "listing v1 t machine ascend910\n"
    body = ""
    for at, (name, a) in zip((0, 65536), arrays.items(), strict=False):
        kind, n = names[a.dtype], a.dtype.itemsize
        text += f"tensor {name}: {kind}[{a.size}] input\n"
        body += f"  MTE2 copy_gm_to_ub {kind}@ub[{at} | j:{n}] = {kind}@gm:{name}[0 | j:{n}] for j<{a.size}\n"
        body += "  pipe_barrier ALL\n"
    size, n = int(np.prod(shape)), np.dtype(TYPES[out]).itemsize
    text += f"tensor y: {out}[{size}] output\ncore c < 1 {{\n{body}"
    text += "".join(f"  {one}\n  pipe_barrier ALL\n" for one in line.split("\n"))
    text += f"  MTE3 copy_ub_to_gm {out}@gm:y[0 | j:{n}] = {out}@ub[131072 | j:{n}] for j<{size}\n}}\n"
    listing = npu.parse_listing(text)
    npu.prove(listing)
    return npu.simulate(listing, arrays)["y"].reshape(shape)


RNG = np.random.default_rng(3)
F32 = RNG.standard_normal(64).astype(np.float32)
F16 = RNG.standard_normal(64).astype(np.float16)


@pytest.mark.parametrize(
    ("mnemonic", "function"),
    [
        ("vexp", np.exp),
        ("vabs", np.abs),
        ("vneg", np.negative),
        ("vtanh", np.tanh),
        ("vsigmoid", lambda a: 1 / (1 + np.exp(-a))),
        ("vcopy", lambda a: a),
    ],
)
@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_unary(mnemonic: str, function: Any, kind: str) -> None:
    x = F32.astype(TYPES[kind])
    n = x.itemsize
    y = run(f"V {mnemonic} {kind}@ub[131072 | j:{n}] = {kind}@ub[0 | j:{n}] for j<64", x, kind, (64,))
    wide = function(x.astype(np.float64))
    assert np.allclose(y, wide, rtol=2e-3 if kind == "f16" else 1e-6)


@pytest.mark.parametrize(
    ("mnemonic", "function"),
    [
        ("vadd", np.add),
        ("vsub", np.subtract),
        ("vmul", np.multiply),
        ("vdiv", np.divide),
        ("vmax", np.maximum),
        ("vmin", np.minimum),
        ("vcmp_lt", np.less),
        ("vcmp_ge", np.greater_equal),
    ],
)
def test_binary_is_correctly_rounded(mnemonic: str, function: Any) -> None:
    w = np.roll(F16, 1)
    y = run(
        f"V {mnemonic} f16@ub[131072 | j:2] = f16@ub[0 | j:2], f16@ub[65536 | j:2] for j<64",
        F16,
        "f16",
        (64,),
        w,
    )
    exact = function(F16.astype(np.float64), w.astype(np.float64)).astype(np.float16)
    assert y.tobytes() == exact.tobytes()


def test_nan_wins_in_max() -> None:
    x = np.array([np.nan, 1, -1], np.float32)
    y = run("V vmaxs f32@ub[131072 | j:4] = f32@ub[0 | j:4], 0.0 for j<3", x, "f32", (3,))
    assert np.array_equal(y, [np.nan, 1, 0], equal_nan=True)


def test_conversions() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -130, 300, np.nan, 127.5], np.float32)
    y = run("V vconv i8@ub[131072 | j:1] = f32@ub[0 | j:4] for j<8", x, "i8", (8,))
    assert y.tolist() == [0, 2, 2, 0, -128, 127, 0, 127]
    y = run("V vconv i32@ub[131072 | j:4] = f32@ub[0 | j:4] for j<8", x * 1e9, "i32", (8,))
    assert y.tolist() == [500000000, 1500000000, 2**31 - 1, -500000000, -(2**31), 2**31 - 1, 0, 2**31 - 1]
    one = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65520.0], np.float32)
    y = run("V vconv f16@ub[131072 | j:2] = f32@ub[0 | j:4] for j<3", one, "f16", (3,))
    assert y.tolist() == [1.0, 1 + 2**-9, np.inf]


def test_integers_wrap() -> None:
    x = np.array([2**31 - 1, -(2**31), 7], np.int32)
    y = run("V vadds i32@ub[131072 | j:4] = i32@ub[0 | j:4], 1 for j<3", x, "i32", (3,))
    assert y.tolist() == [-(2**31), -(2**31) + 1, 8]


def test_fma_rounds_once() -> None:
    x = np.array([1 + 2**-12, 3.0], np.float32)
    line = "V vmadd f32@ub[131072 | j:4] = f32@ub[0 | j:4], f32@ub[0 | j:4], -1.0 for j<2"
    y = run(line, x, "f32", (2,))
    assert y.tolist() == [np.float32(2**-11 + 2**-24), 8.0]


def test_select_and_iota() -> None:
    line = "V vci i32@ub[131072 | j:4] = for j<8 {form=j*3 - 4}"
    assert run(line, F32, "i32", (8,)).tolist() == [3 * j - 4 for j in range(8)]
    mask = (F32 > 0).astype(np.int8)
    line = "V vsel f32@ub[131072 | j:4] = i8@ub[65536 | j:1], f32@ub[0 | j:4], 0.0 for j<64"
    assert np.array_equal(run(line, F32, "f32", (64,), mask), np.maximum(F32, 0))


@pytest.mark.parametrize(("op", "function"), [("vcadd", np.sum), ("vcmax", np.max), ("vcmin", np.min)])
def test_reductions(op: str, function: Any) -> None:
    x = RNG.integers(-8, 9, (4, 16)).astype(np.float32)
    fresh = f"V {op} f32@ub[131072 | i:4] = f32@ub[0 | i:64, j:4] for i<4, j<8 {{init=0}}"
    merge = f"V {op} f32@ub[131072 | i:4] = f32@ub[32 | i:64, j:4] for i<4, j<8"
    assert np.array_equal(run(f"{fresh}\n{merge}", x, "f32", (4,)), function(x, axis=1))


def test_argmax_prefers_nan_then_the_lowest_index() -> None:
    x = np.array([[1, 5, 5, 2], [3, np.nan, 9, np.nan], [0, 0, 0, 0]], np.float32)
    index = "V vci i32@ub[65536 | j:4] = for j<4 {form=j}"
    ends = "i32@ub[65536 | j:4] for i<3, j<4 {init=0}"
    line = f"V vcargmax f32@ub[4096 | i:4], i32@ub[131072 | i:4] = f32@ub[0 | i:16, j:4], {ends}"
    assert run(f"{index}\n{line}", x, "i32", (3,)).tolist() == [1, 1, 0]


def test_moments_merge_by_chunks() -> None:
    x = (RNG.standard_normal((3, 32)) + 1e4).astype(np.float32)
    lines = [
        "V vcmoments f32@ub[131072 | i:8], f32@ub[131076 | i:8] = "
        f"f32@ub[{32 * n} | i:128, j:4] for i<3, j<8 {{form={8 * n}}}"
        for n in range(4)
    ]
    y = run("\n".join(lines), x, "f32", (3, 2))
    wide = x.astype(np.float64)
    assert np.allclose(y[:, 0], wide.mean(axis=1), rtol=1e-6)
    assert np.allclose(y[:, 1] / 32, wide.var(axis=1), rtol=1e-3)


def test_padded_window_read() -> None:
    """Bounds that couple two dimensions (an im2col read) fill exactly what leaves the image."""
    x = np.arange(1, 65, dtype=np.float32)
    text = """\
listing v1 t machine ascend910
tensor x: f32[8,8] input
tensor y: f32[8,8,3,3] output
core c < 1 {
  MTE2 copy_gm_to_ub f32@ub[0 | p:288, q:36, r:12, s:4] = f32@gm:x[-36 | p:32, q:4, r:32, s:4]\
 for p<8, q<8, r<3, s<3 {inside=p + r - 1 < 8 & q + s - 1 < 8, fill=0.5}
  pipe_barrier ALL
  MTE3 copy_ub_to_gm f32@gm:y[0 | j:4] = f32@ub[0 | j:4] for j<576
}
"""
    listing = npu.parse_listing(text)
    npu.prove(listing)
    y = npu.simulate(listing, {"x": x.reshape(8, 8)})["y"]
    padded = np.pad(x.reshape(8, 8), 1, constant_values=0.5)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    assert np.array_equal(y, windows)


def test_sample_matches_a_direct_convolution() -> None:
    program = barriers(place(sample(), machine()))
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.integers(-4, 5, (1, 8, 8, 32)).astype(np.float16),
        "w": rng.integers(-2, 3, (9, 32, 32)).astype(np.float16),
        "mul": np.full(32, 0.25, np.float32),
        "shift": rng.integers(-8, 9, 32).astype(np.float32),
    }
    y = npu.simulate(npu.emit(program, machine()), arrays)["y"]
    padded = np.pad(arrays["x"].astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    w = arrays["w"].astype(np.float64).reshape(3, 3, 32, 32)
    exact = sum(padded[:, r : r + 8, s : s + 8] @ w[r, s] for r in range(3) for s in range(3))
    exact = np.maximum(exact * arrays["mul"] + arrays["shift"], 0)
    assert y.tobytes() == exact.astype(np.float16).tobytes()


def test_integer_products_are_exact() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (2, 16, 96), dtype=np.int8)
    text = """\
listing v1 t machine ascend910
tensor a: i8[16,96] input
tensor b: i8[16,96] input
tensor y: i32[16,16] output
core c < 1 {
  MTE2 copy_gm_to_l1 i8@l1[0 | j:1] = i8@gm:a[0 | j:1] for j<1536
  MTE2 copy_gm_to_l1 i8@l1[4096 | j:1] = i8@gm:b[0 | j:1] for j<1536
  pipe_barrier ALL
  MTE1 load2d i8@l0a[0 | j:1] = i8@l1[0 | j:1] for j<1536
  MTE1 load2d i8@l0b[0 | k:16, n:1] = i8@l1[4096 | k:1, n:96] for k<96, n<16
  pipe_barrier ALL
  M mmad i32@l0c[0 | m:64, n:4] = i8@l0a[0 | m:96, k:1], i8@l0b[0 | k:16, n:1] for m<16, n<16, k<96 {init=0}
  pipe_barrier ALL
  V drain i32@ub[0 | j:4] = i32@l0c[0 | j:4] for j<256
  pipe_barrier ALL
  MTE3 copy_ub_to_gm i32@gm:y[0 | j:4] = i32@ub[0 | j:4] for j<256
}
"""
    listing = npu.parse_listing(text)
    npu.prove(listing)
    y = npu.simulate(listing, {"a": a, "b": b})["y"]
    assert np.array_equal(y, a.astype(np.int32) @ b.astype(np.int32).T)


def test_a_drain_multiplies_rounds_to_even_and_saturates() -> None:
    sums = np.arange(-512, 512, 4, dtype=np.int32).reshape(16, 16)
    factors = np.resize(np.float32([0.125, 0.25, 1e-3, -2]), 16)
    text = """\
listing v1 t machine ascend910
tensor a: i32[16,16] input
tensor f: f32[16] input
tensor y: i8[16,16] output
core c < 1 {
  MTE2 copy_gm_to_ub i32@ub[0 | j:4] = i32@gm:a[0 | j:4] for j<256
  MTE2 copy_gm_to_ub f32@ub[2048 | j:4] = f32@gm:f[0 | j:4] for j<16
  pipe_barrier ALL
  V copy_ub_to_l0c i32@l0c[0 | j:4] = i32@ub[0 | j:4] for j<256
  pipe_barrier ALL
  V drain i8@ub[4096 | m:16, n:1] = i32@l0c[0 | m:64, n:4], f32@ub[2048 | n:4] for m<16, n<16 {scale=scale+convert}
  pipe_barrier ALL
  MTE3 copy_ub_to_gm i8@gm:y[0 | j:1] = i8@ub[4096 | j:1] for j<256
}
"""
    listing = npu.parse_listing(text)
    assert npu.print_listing(listing) == text
    npu.prove(listing)
    y = npu.simulate(listing, {"a": sums, "f": factors})["y"]
    assert np.array_equal(y, np.clip(np.rint(sums * factors), -128, 127).astype(np.int8))


def test_arrays_are_checked() -> None:
    listing = npu.emit(barriers(place(sample(), machine())), machine())
    with pytest.raises(ListingError, match="E0830"):
        npu.simulate(listing, {})
    with pytest.raises(ListingError, match="E0831"):
        npu.simulate(listing, {"x": np.zeros((1, 8, 8, 32), np.float32)})


def test_unproved_access_outside_memory_is_an_error() -> None:
    text = "listing v1 t machine ascend910\ncore c < 1 {\n  V vdup f16@ub[262143 | j:2] = 1.0 for j<64\n}\n"
    with pytest.raises(ListingError, match="E0832"):
        npu.simulate(npu.parse_listing(text), {})


def test_speed_of_a_convolution() -> None:
    """64 channels, 56x56, 3x3: 28 tiles of two rows on one core."""
    text = """\
listing v1 t machine ascend910
tensor x: f16[58,58,64] input
tensor w: f16[3,3,64,64] input
tensor y: f16[56,56,64] output
core c < 28 {
  MTE2 copy_gm_to_l1 f16@l1[0 | j:2] = f16@gm:w[0 | j:2] for j<36864
  MTE2 copy_gm_to_l1 f16@l1[131072 | j:2] = f16@gm:x[c*14848 | j:2] for j<14848
  pipe_barrier ALL
  loop r < 3 {
    loop s < 3 {
      MTE1 load3d f16@l0a[0 | p:7168, q:128, k:2] = f16@l1[131072 + r*7424 + s*128 | p:7424, q:128, k:2]\
 for p<2, q<56, k<64
      MTE1 load2d f16@l0b[0 | j:2] = f16@l1[r*24576 + s*8192 | j:2] for j<4096
      pipe_barrier ALL
      M mmad f32@l0c[0 | m:256, n:4] = f16@l0a[0 | m:128, k:2], f16@l0b[0 | k:128, n:2]\
 for m<112, n<64, k<64 {init=r*3 + s}
      pipe_barrier ALL
    }
  }
  V drain f16@ub[0 | j:2] = f32@l0c[0 | j:4] for j<7168 {scale=relu}
  pipe_barrier ALL
  MTE3 copy_ub_to_gm f16@gm:y[c*14336 | j:2] = f16@ub[0 | j:2] for j<7168
  pipe_barrier ALL
}
"""
    listing = npu.parse_listing(text)
    npu.prove(listing)
    rng = np.random.default_rng(2)
    x = rng.integers(-3, 4, (58, 58, 64)).astype(np.float16)
    w = rng.integers(-1, 2, (3, 3, 64, 64)).astype(np.float16)
    start = time.process_time()
    y = npu.simulate(listing, {"x": x, "w": w})["y"]
    assert time.process_time() - start < 3
    wide = x.astype(np.float64)
    exact = sum(wide[r : r + 56, s : s + 56] @ w[r, s].astype(np.float64) for r in range(3) for s in range(3))
    assert np.array_equal(y, np.maximum(exact, 0).astype(np.float16))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 40), (1, 1, 2, 40), (3, 1, 1, 30), (2, 5, 7, 33), (1, 16, 16, 300)]
)
def test_products_are_added_one_after_the_other(shape: tuple[int, int, int, int]) -> None:
    batch, rows, columns, inner = shape
    rng = np.random.default_rng(5)
    a = rng.standard_normal((batch, rows, inner)).astype(np.float16)
    b = rng.standard_normal((batch, inner, columns)).astype(np.float16)
    found = rng.standard_normal((batch, rows, columns)).astype(np.float32)
    expected = found.copy()
    for k in range(inner):
        expected += a[:, :, k, None].astype(np.float32) * b[:, k, None, :].astype(np.float32)
    matmul(a, b, found)
    assert found.tobytes() == expected.tobytes()
