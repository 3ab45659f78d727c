"""The shipped kernels mean what their names say: lowered, interpreted, and compared with plain NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc.dtypes import DType
from opc.lang import kernel_info, kernel_names, lower, parse
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Function
from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import verify

Array = npt.NDArray[Any]
FLOATS = (DType.F64, DType.F32, DType.F16, DType.BF16)


def shipped(name: str, dtype: DType = DType.F64, **sizes: float) -> Function:
    f = lower(kernels_dsl.source(name), f"kernels_dsl/{name}.k", sizes=sizes, dtype=dtype)
    verify(f)
    return f


def data(f: Function, seed: int) -> dict[str, Array]:
    """Small integers for integers; for floats values that f32 holds, with variances positive."""
    random = np.random.default_rng(seed)
    out: dict[str, Array] = {}
    for arg in f.args:
        t = arg.tensor
        if not t.dtype.is_float:
            out[t.name] = random.integers(-8, 9, t.shape).astype(t.dtype.numpy)
        else:
            values = random.normal(size=t.shape).astype(np.float32)
            out[t.name] = (np.abs(values) + 0.5 if t.name == "var" else values).astype(t.dtype.numpy)
    return out


def run(name: str, seed: int = 0, **sizes: float) -> tuple[dict[str, Array], dict[str, Array]]:
    """Arguments and results of a shipped kernel in float64."""
    f = shipped(name, **sizes)
    arrays = data(f, seed)
    return arrays, evaluate(f, arrays)


def same(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def conv(x: Array, w: Array, stride: int, pads: tuple[int, int, int, int], dil: int, groups: int) -> Array:
    """Convolution by shifting and adding; pads are top, left, bottom, right."""
    top, left, bottom, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, _, height, width = x.shape
    k, cg, r, s = w.shape
    p, q = (height - dil * (r - 1) - 1) // stride + 1, (width - dil * (s - 1) - 1) // stride + 1
    y = np.zeros((n, k, p, q))
    for f in range(k):
        first = f // (k // groups) * cg
        for i in range(r):
            for j in range(s):
                rows = slice(i * dil, i * dil + stride * (p - 1) + 1, stride)
                columns = slice(j * dil, j * dil + stride * (q - 1) + 1, stride)
                y[:, f] += np.einsum("nchw,c->nhw", x[:, first : first + cg, rows, columns], w[f, :, i, j])
    return y


def normalise(a: Array, d: dict[str, Array], eps: float = 1e-5) -> Array:
    scale = d["gamma"] / np.sqrt(d["var"].astype(np.float64) + eps)
    return (a - d["mean"].reshape(1, -1, 1, 1)) * scale.reshape(1, -1, 1, 1) + d["beta"].reshape(1, -1, 1, 1)


small = st.integers(1, 4)
sides = st.integers(1, 9)


@given(
    small,
    small,
    small,
    small,
    sides,
    sides,
    small,
    small,
    small,
    st.integers(0, 4),
    st.integers(1, 3),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_conv2d(
    n: int,
    cg: int,
    kg: int,
    groups: int,
    h: int,
    w: int,
    r: int,
    s: int,
    stride: int,
    pad: int,
    dil: int,
    draw: Any,
) -> None:
    left, bottom, right = (draw.draw(st.integers(0, 4)) for _ in range(3))
    assume(h + pad + bottom > dil * (r - 1) and w + left + right > dil * (s - 1))
    sizes = {"N": n, "C": cg * groups, "H": h, "W": w, "K": kg * groups, "CG": cg, "R": r, "S": s}
    d, y = run("conv2d", **sizes, stride=stride, pad=pad, pad_left=left, pad_bottom=bottom, pad_right=right,
               dilation=dil, groups=groups)  # fmt: skip
    same(y["y"], conv(d["x"], d["w"], stride, (pad, left, bottom, right), dil, groups))


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_bn_relu(stride: int) -> None:
    d, y = run("conv_bn_relu", N=2, C=5, H=7, W=6, K=3, stride=stride)
    a = conv(d["x"], d["w"], stride, (1, 1, 1, 1), 1, 1)
    same(y["y"], np.maximum(normalise(a, d), 0))


def test_conv_bn_add_relu() -> None:
    d, y = run("conv_bn_add_relu", N=2, C=5, H=7, W=6, K=3, stride=2)
    a = conv(d["x"], d["w"], 2, (1, 1, 1, 1), 1, 1)
    same(y["y"], np.maximum(normalise(a, d) + d["residual"], 0))


def test_depthwise_conv_bn_relu() -> None:
    d, y = run("depthwise_conv_bn_relu", N=2, C=5, H=7, W=6)
    a = conv(d["x"], d["w"], 1, (1, 1, 1, 1), 1, 5)
    same(y["y"], np.maximum(normalise(a, d), 0))


def test_grouped_conv() -> None:
    d, y = run("grouped_conv", N=2, C=6, H=5, W=4, K=9, CG=2, groups=3)
    same(y["y"], conv(d["x"], d["w"], 1, (1, 1, 1, 1), 1, 3))


def test_dilated_conv() -> None:
    d, y = run("dilated_conv", C=3, K=2)
    same(y["y"], conv(d["x"], d["w"], 1, (2, 2, 1, 0), 2, 1))


def test_conv2d_int8_is_exact() -> None:
    d, y = run("conv2d_int8", C=7, K=3)
    expected = conv(d["x"], d["w"], 1, (1, 1, 1, 1), 1, 1)
    assert np.array_equal(y["y"], expected)


def test_batch_norm_and_pointwise() -> None:
    d, y = run("batch_norm")
    same(y["y"], normalise(d["x"], d))
    d, y = run("relu")
    same(y["y"], np.maximum(d["x"], 0))
    d, y = run("add")
    same(y["y"], d["a"] + d["b"])
    d, y = run("gelu")
    same(y["y"], d["x"] * 0.5 * (1 + np.vectorize(math.erf)(d["x"] / math.sqrt(2))))


def test_batch_stats() -> None:
    d, y = run("batch_stats", N=3, C=4)
    same(y["mean"], d["x"].mean((0, 2, 3)))
    same(y["var"], d["x"].var((0, 2, 3)))


def test_products() -> None:
    d, y = run("matmul", M=3, K=4, N=5)
    same(y["y"], d["a"] @ d["b"])
    d, y = run("batched_matmul", B=2, M=3, K=4, N=5)
    same(y["y"], d["a"] @ d["b"])
    d, y = run("linear", M=3, K=4, N=5)
    same(y["y"], d["x"] @ d["w"].T + d["bias"])
    d, y = run("linear_bias_relu", M=3, K=4, N=5)
    same(y["y"], np.maximum(d["x"] @ d["w"].T + d["bias"], 0))


def softmax(a: Array) -> Array:
    e = np.exp(a - a.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def test_softmax_and_attention() -> None:
    d, y = run("softmax", M=3, N=7)
    same(y["y"], softmax(d["x"]))
    d, y = run("attention_scores", B=2, H=3, M=4, N=5, D=6)
    same(y["y"], softmax(np.einsum("bhmd,bhnd->bhmn", d["q"], d["k"]) / math.sqrt(6)))


def test_layer_norm() -> None:
    d, y = run("layer_norm", M=3, N=7)
    x = d["x"]
    scaled = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    same(y["y"], scaled * d["gamma"] + d["beta"])


@given(small, sides, sides, st.integers(1, 4), st.integers(1, 3), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_pooling(c: int, h: int, w: int, size: int, stride: int, pad: int) -> None:
    assume(h + 2 * pad >= size and w + 2 * pad >= size)
    sizes = {"N": 2, "C": c, "H": h, "W": w, "size": size, "stride": stride, "pad": pad}
    for name, around, reduce in (("max_pool2d", -np.inf, np.max), ("avg_pool2d", 0.0, np.mean)):
        d, y = run(name, **sizes)
        x = np.pad(d["x"], ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=around)
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
        same(y["y"], np.asarray(reduce(windows, axis=(4, 5))))


def test_global_avg_pool() -> None:
    d, y = run("global_avg_pool")
    same(y["y"], d["x"].mean((2, 3)))


def test_moving_data() -> None:
    d, y = run("concat", N=2, A=3, B=4)
    same(y["y"], np.concatenate([d["a"], d["b"]], 1))
    d, y = run("concat_channels", N=2, A=3, B=4)
    same(y["y"], np.concatenate([d["a"], d["b"]], 1))
    d, y = run("slice_rows", M=12, N=3, begin=1, count=4, step=3)
    same(y["y"], d["x"][1:12:3])
    d, y = run("transpose", M=3, N=4)
    same(y["y"], d["x"].T)
    d, y = run("pad2d", top=2, bottom=0, left=1, right=3, value=0.5)
    same(y["y"], np.pad(d["x"], ((0, 0), (0, 0), (2, 0), (1, 3)), constant_values=0.5))
    d, y = run("flatten", N=2, C=3, H=4, W=5)
    same(y["y"], d["x"].reshape(2, 60))


def test_argmax() -> None:
    f = shipped("argmax", M=40, N=5)
    x = np.random.default_rng(1).integers(0, 3, (40, 5)).astype(np.float64)
    assert np.array_equal(evaluate(f, {"x": x})["y"], x.argmax(1))


def test_sgd() -> None:
    d, y = run("sgd", N=5, rate=0.5)
    m = 0.9 * d["m"].astype(np.float64) + d["g"]
    same(y["m"], m)
    same(y["w"], d["w"] - 0.5 * m)
    same(y["change"], np.array([np.abs(0.5 * m).max()]))


@pytest.mark.parametrize("name", kernels_dsl.names())
def test_every_kernel_has_an_example_and_a_description(name: str) -> None:
    text = kernels_dsl.source(name)
    assert kernel_names(text) == [name], "NAME.k declares the kernel NAME"
    info = kernel_info(text, kernel=name)
    assert info.doc.endswith(".")
    assert info.example
    assert not parse(text).uses, "library files stand alone"
    assert not info.missing


@pytest.mark.parametrize("name", kernels_dsl.names())
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_kernel_lowers_for_every_float(name: str, dtype: DType) -> None:
    f = shipped(name, dtype)
    assert parse_function(print_function(f)) == f
    assert f.source == f"kernels_dsl/{name}.k"
    assert all(op.line > 0 for op in f.ops)


def test_there_are_enough_kernels() -> None:
    wanted = (
        "conv_bn_relu conv_bn_add_relu depthwise_conv_bn_relu grouped_conv linear_bias_relu matmul max_pool2d"
    )
    wanted += " softmax layer_norm gelu attention_scores concat"
    assert set(wanted.split()) <= set(kernels_dsl.names())
    assert len(kernels_dsl.names()) >= 16


def test_sources_are_found_by_name() -> None:
    assert kernels_dsl.path("softmax").name == "softmax.k"
    with pytest.raises(KeyError):
        kernels_dsl.source("no_such_kernel")
    with pytest.raises(KeyError):
        kernels_dsl.source("../setup")


def test_the_example_of_conv_bn_relu() -> None:
    info = kernel_info(kernels_dsl.source("conv_bn_relu"))
    assert info.example == {"N": 1, "C": 64, "H": 56, "W": 56, "K": 64, "R": 3, "S": 3}
    assert {a.name: a.default for a in info.attributes} == {"stride": 1, "pad": 1, "eps": 1e-5}
