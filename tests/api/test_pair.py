"""Pairs of a kernel and its gradient: calls, what is saved, binding, settings, keeping, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import kernels_dsl
import opc
from opc.arrays import Array

SOURCE = """
kernel dense(x: T[M, K], param w: T[K, N], param bias: f32[N]) -> (y: T[M, N]) {
  example M = 6, K = 16, N = 24
  a[m, n] = sum[k](x[m, k] * w[k, n])
  y[m, n] = max(a[m, n] + bias[n], 0)
}
kernel dense_grad = grad(dense, wrt=[x, w, bias])
"""
WRT = ["x", "w", "bias"]


@pytest.fixture(scope="module")
def pair() -> opc.Pair:
    return opc.grad(SOURCE, threads=1)


def data(dtype: Any = np.float32, m: int = 6) -> tuple[Array, Array, Array, Array]:
    random = np.random.default_rng(0)
    x, w, dy = (random.standard_normal(shape).astype(dtype) for shape in ((m, 16), (16, 24), (m, 24)))
    return x, w, random.standard_normal(24).astype(np.float32), dy


def expected(x: Array, w: Array, bias: Array, dy: Array) -> tuple[Array, Array, Array]:
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    g = np.where(x @ w + bias > 0, dy, 0)
    return g @ w.T, x.T @ g, g.sum(0)


def agree(found: tuple[Array, ...], wanted: tuple[Array, ...], tolerance: float = 1e-5) -> None:
    assert isinstance(found, tuple)
    for f, e in zip(found, wanted, strict=True):
        np.testing.assert_allclose(f.astype(np.float64), e, rtol=tolerance, atol=tolerance)


def same(found: tuple[Array, ...], wanted: tuple[Array, ...]) -> None:
    for f, e in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(f, e)


def test_forward_and_backward(pair: opc.Pair) -> None:
    x, w, bias, dy = data()
    y, saved = pair.fwd(x, w, bias=bias)
    np.testing.assert_allclose(y, np.maximum(x @ w + bias, 0), rtol=1e-5, atol=1e-5)
    agree(pair.bwd(saved, dy), expected(x, w, bias, dy))
    same(pair.bwd(saved, d_y=dy), pair.bwd(saved, dy))
    assert pair.name == "dense_grad"
    assert pair.wrt == tuple(WRT)
    assert "wrt x, w, bias" in repr(pair)
    assert "kept arrays" in repr(saved)


def test_from_a_kernel_a_name_and_a_declaration_are_one(pair: opc.Pair, tmp_path: Path) -> None:
    x, w, bias, dy = data()
    file = tmp_path / "dense.k"
    file.write_text(SOURCE, encoding="utf-8")
    wanted = pair.bwd(pair.fwd(x, w, bias)[1], dy)
    for other in (
        opc.grad(file),
        opc.grad(file, "dense_grad"),
        opc.grad(SOURCE, "dense", wrt=WRT),
        opc.grad(opc.compile(SOURCE, "dense"), wrt=WRT),
    ):
        same(other.bwd(other.fwd(x, w, bias)[1], dy), wanted)


def test_wrt_orders_and_selects() -> None:
    x, w, bias, dy = data()
    pair = opc.grad(SOURCE, "dense", wrt=["bias", "x"])
    dx, _, dbias = expected(x, w, bias, dy)
    agree(pair.bwd(pair.fwd(x, w, bias)[1], dy), (dbias, dx))


def test_from_the_library() -> None:
    pair = opc.grad("kernel g = grad(matmul, wrt=[b])  # { from kernels_dsl }", M=5, K=7, N=3)
    a, b, dc = (np.ones(s, np.float32) for s in ((5, 7), (7, 3), (5, 3)))
    (db,) = pair.bwd(pair.fwd(a, b)[1], dc)
    np.testing.assert_array_equal(db, np.full((7, 3), 5.0))
    assert opc.grad(kernels_dsl.path("matmul"), wrt=["a"], M=5, K=7, N=3).wrt == ("a",)


def test_out_and_memory_used_again(pair: opc.Pair) -> None:
    x, w, bias, dy = data()
    y, saved = pair.fwd(x, w, bias)
    wanted = pair.bwd(saved, dy)
    out = tuple(pair.bwd.kernel.empty(f"d_{n}") for n in WRT)
    assert all(a is b for a, b in zip(pair.bwd(saved, dy, out=out), out, strict=True))
    same(out, wanted)
    z, again = pair.fwd(x * 2, w, bias, out=y, saved=saved)
    assert z is y
    same(pair.bwd(again, dy), pair.bwd(pair.fwd(x * 2, w, bias)[1], dy))


def test_bound_parameters_are_packed_once_for_both(pair: opc.Pair) -> None:
    x, w, bias, dy = data()
    wanted = pair.bwd(pair.fwd(x, w, bias)[1], dy)
    step = pair.bind(w=w, bias=bias)
    w *= 0
    bias *= 0
    _, saved = step.fwd(x)
    same(step.bwd(saved, dy), wanted)
    assert "bound" in repr(step)
    with pytest.raises(opc.RuntimeCallError, match="E0911"):
        pair.bind(w=w)


def test_in_the_background(pair: opc.Pair) -> None:
    x, w, bias, dy = data()
    _, saved = pair.fwd.start(x, w, bias).wait()
    same(pair.bwd.start(saved, dy).wait(), pair.bwd(saved, dy))


def test_settings_reach_both_kernels() -> None:
    x, w, bias, dy = data(ml_dtypes.bfloat16, m=9)
    pair = opc.grad(SOURCE, dtype="bf16", numerics="fast", machine="portable", threads=2, M=9)
    for kernel in (pair.fwd.kernel, pair.bwd.kernel):
        assert (kernel.machine, kernel.numerics, kernel.threads) == ("portable", "fast", 2)
    gradients = pair.bwd(pair.fwd(x, w, bias)[1], dy)
    assert [str(g.dtype) for g in gradients] == ["bfloat16", "bfloat16", "float32"]
    agree(gradients, expected(x, w, bias, dy), 0.1)


def test_layout_of_every_image() -> None:
    text = "kernel f(x: T[N,C,H,W], s: f32[C]) -> (y: T[N,C,H,W]) { y[n,c,h,w] = x[n,c,h,w] * x[n,c,h,w] * s[c] }"
    pair = opc.grad(text, "f", wrt=["x", "s"], layout="nhwc", N=2, C=5, H=3, W=4)
    images = [
        s
        for k in (pair.fwd.kernel, pair.bwd.kernel)
        for s in (*k.signature.args, *k.signature.results)
        if len(s.shape) == 4
    ]
    assert len(images) >= 5
    assert all(s.tensor.memory_order == (0, 2, 3, 1) for s in images)


def test_same_bits_at_any_thread_count() -> None:
    x, w, bias, dy = data(m=200)
    pairs = [opc.grad(SOURCE, threads=t, M=200) for t in (1, 2, 3)]
    results = [p.bwd(p.fwd(x, w, bias)[1], dy) for p in pairs]
    for other in results[1:]:
        same(other, results[0])


def test_a_second_process_finds_both_kernels(
    pair: opc.Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPC_CACHE_DIR", str(tmp_path))
    x, w, bias, dy = data()
    opc.grad(SOURCE)
    monkeypatch.setattr("opc.driver.build", None)
    cached = opc.grad(SOURCE)
    assert cached.layout == pair.layout
    same(cached.bwd(cached.fwd(x, w, bias)[1], dy), pair.bwd(pair.fwd(x, w, bias)[1], dy))


def test_save_and_load(pair: opc.Pair, tmp_path: Path) -> None:
    x, w, bias, dy = data()
    pair.save(tmp_path / "pair.opc")
    loaded = opc.load_pair(tmp_path / "pair.opc")
    assert (loaded.name, loaded.wrt, loaded.layout) == (pair.name, pair.wrt, pair.layout)
    same(loaded.bwd(loaded.fwd(x, w, bias)[1], dy), pair.bwd(pair.fwd(x, w, bias)[1], dy))
    again = opc.grad(opc.compile(SOURCE, "dense"), wrt=["x"])
    again.fwd.kernel.save(tmp_path / "one.opc")
    for damaged in (tmp_path / "one.opc", tmp_path / "none.opc"):
        with pytest.raises(opc.RuntimeCallError, match=r"E09(14|20)"):
            opc.load_pair(damaged)
    with pytest.raises(opc.RuntimeCallError, match="E0914"):
        opc.load(tmp_path / "pair.opc")


def test_a_saved_kernel_can_be_differentiated(pair: opc.Pair, tmp_path: Path) -> None:
    x, w, bias, dy = data()
    opc.compile(SOURCE, "dense").save(tmp_path / "dense.opc")
    other = opc.grad(opc.load(tmp_path / "dense.opc"), wrt=WRT)
    same(other.bwd(other.fwd(x, w, bias)[1], dy), pair.bwd(pair.fwd(x, w, bias)[1], dy))


def test_operators_take_arrays_of_any_sizes() -> None:
    pair = opc.grad(opc.ops.conv2d, wrt=["w", "x"])
    assert "wrt w, x" in repr(pair)
    random = np.random.default_rng(0)
    for size, dtype in ((5, np.float32), (6, np.float64)):
        x, w = (random.standard_normal(s).astype(dtype) for s in ((1, 2, size, size), (3, 2, 1, 1)))
        y, saved = pair.fwd(x, w, stride=2)
        dw, dx = pair.bwd(saved, np.ones_like(y))
        np.testing.assert_allclose(dw[:, :, 0, 0], np.tile(x[0, :, ::2, ::2].sum((1, 2)), (3, 1)), rtol=1e-4)
        np.testing.assert_allclose(dx[0, :, 0, 0], w[:, :, 0, 0].sum(0), rtol=1e-4)
        assert not dx[:, :, 1::2].any()
    images = random.standard_normal((1, 4, 4, 2)).astype(np.float32).transpose(0, 3, 1, 2)
    y, _ = pair.fwd(images, w.astype(np.float32))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    with pytest.raises(opc.RuntimeCallError, match="E0907"):
        pair.fwd(images, w, steps=2)
    with pytest.raises(opc.RuntimeCallError, match="E0936"):
        pair.bwd(y, y)  # type: ignore[arg-type]


def test_double_precision_throughout() -> None:
    pair = opc.grad(opc.ops.layer_norm, wrt=["x", "gamma"])
    random = np.random.default_rng(0)
    x, gamma, beta, dy = (random.standard_normal(s) for s in ((3, 8), (8,), (8,), (3, 8)))
    y, saved = pair.fwd(x, gamma, beta)
    dx, dgamma = pair.bwd(saved, dy)
    assert {a.dtype for a in (y, dx, dgamma)} == {np.dtype(np.float64)}
    step = 1e-6 * random.standard_normal(x.shape)
    change = (pair.fwd(x + step, gamma, beta)[0] - pair.fwd(x - step, gamma, beta)[0]) * dy
    np.testing.assert_allclose(change.sum() / 2, (dx * step).sum(), rtol=1e-6)


def test_on_the_simulated_npu() -> None:
    text = "kernel f(x: T[N]) -> (y: T[N]) { a[i] = exp(x[i])  y[i] = a[i] * x[i] }"
    pair = opc.grad(text, "f", wrt=["x"], N=64)
    x = np.linspace(-1, 1, 64).astype(np.float16)
    y, saved = pair.fwd.simulate(x)
    (dx,) = pair.bwd.simulate(saved, np.ones_like(y))
    wanted = np.exp(x.astype(np.float64)) * (1 + x)
    np.testing.assert_allclose(dx.astype(np.float64), wanted, rtol=4e-3, atol=4e-3)
    with pytest.raises(opc.RuntimeCallError, match="E0936"):
        pair.bwd(saved, np.ones(64, np.float32))


def test_what_another_pair_saved_is_refused(pair: opc.Pair) -> None:
    x, w, bias, dy = data(m=7)
    y, saved = opc.grad(SOURCE, M=7).fwd(x, w, bias)
    for wrong in (saved, y, None):
        with pytest.raises(opc.RuntimeCallError, match="E0936"):
            pair.bwd(wrong, dy)  # type: ignore[arg-type]


def test_what_cannot_be_differentiated(pair: opc.Pair) -> None:
    kernel = opc.compile(SOURCE, "dense")
    with pytest.raises(opc.RuntimeCallError, match="E0937"):
        opc.grad(SOURCE, "dense")
    for wrong in (
        lambda: opc.grad(3, wrt=["x"]),  # type: ignore[arg-type]
        lambda: opc.grad(kernel),
        lambda: opc.grad(kernel, wrt=["x"], M=8),
        lambda: opc.grad(pair.bwd.kernel, wrt=["x"]),
    ):
        with pytest.raises(opc.RuntimeCallError, match="E0938"):
            wrong()
    for names, code in ((["q"], "E0252"), (["x", "x"], "E0253"), ("x", "E0253"), ([], "E0253")):
        with pytest.raises(opc.LanguageError, match=code):
            opc.grad(kernel, wrt=names)
    with pytest.raises(opc.LanguageError, match="E0254"):
        opc.grad(kernels_dsl.path("add"), wrt=["a"], dtype="i32")
    with pytest.raises(opc.LanguageError, match="E0255"):
        opc.compile(SOURCE, "dense_grad")
    for call in (lambda: pair.bwd(pair.fwd(*data()[:3])[1]), lambda: pair.fwd(data()[0])):
        with pytest.raises(opc.RuntimeCallError, match="E0906"):
            call()


def test_what_is_donated_is_written_over_once() -> None:
    random, sizes = np.random.default_rng(0), {"N": 8, "C": 16, "CG": 16, "H": 14, "W": 14, "K": 32}
    block = kernels_dsl.path("conv_bn_relu_train")
    pair, plain = (
        opc.grad(block, wrt=["x", "w"], threads=1, layout="nhwc", donate=give, **sizes)
        for give in (True, False)
    )
    arrays = [pair.fwd.kernel.empty(slot.name) for slot in pair.fwd.kernel.signature.args]
    for array in arrays:
        array[...] = random.uniform(0.5, 1.5, array.shape)
    (y, saved), (_, other) = (p.fwd(*arrays) for p in (pair, plain))
    dy = np.ones_like(y)
    wanted = plain.bwd(other, dy)
    same(plain.bwd(other, dy), wanted)
    same(pair.bwd(saved, dy), wanted)
    assert [" inout\n" in p.bwd.kernel.program_ir for p in (pair, plain)] == [True, False]
    with pytest.raises(opc.RuntimeCallError, match="E0943"):
        pair.bwd(saved, dy)
    _, again = pair.fwd(*arrays, out=y, saved=saved)
    same(pair.bwd(again, dy), wanted)
