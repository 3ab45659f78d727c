"""opc.ops against PyTorch, over memory orders, dtypes and kinds of arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import opc
from opc import ops

torch = pytest.importorskip("torch", reason="the comparison needs PyTorch (make setup-dev)")
F = torch.nn.functional


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def positive(*shape: int) -> Any:
    return np.random.default_rng(list(shape)).uniform(0.5, 1.5, shape).astype(np.float32)


def t(value: Any) -> Any:
    return torch.from_numpy(value)


X, W = array(2, 6, 9, 11), array(8, 6, 3, 3)
NORM = [positive(8), array(8), array(8, seed=1), positive(8) + 0.1]

CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "conv2d": (lambda: ops.conv2d(X, W, pad=1), lambda: F.conv2d(t(X), t(W), padding=1)),
    "conv2d strided": (
        lambda: ops.conv2d(X, W, stride=2, pad=2, dilation=2),
        lambda: F.conv2d(t(X), t(W), stride=2, padding=2, dilation=2),
    ),
    "conv2d grouped": (
        lambda: ops.conv2d(X, array(8, 3, 3, 3), groups=2),
        lambda: F.conv2d(t(X), t(array(8, 3, 3, 3)), groups=2),
    ),
    "conv_bn_relu": (
        lambda: ops.conv_bn_relu(X, W, *NORM),
        lambda: normalised(F.conv2d(t(X), t(W), padding=1)).relu(),
    ),
    "conv_bn_add_relu": (
        lambda: ops.conv_bn_add_relu(X, W, *NORM, array(2, 8, 9, 11)),
        lambda: (normalised(F.conv2d(t(X), t(W), padding=1)) + t(array(2, 8, 9, 11))).relu(),
    ),
    "batch_norm": (
        lambda: ops.batch_norm(array(2, 8, 5, 5), *NORM),
        lambda: normalised(t(array(2, 8, 5, 5))),
    ),
    "relu": (lambda: ops.relu(X), lambda: t(X).relu()),
    "relu vector": (lambda: ops.relu(array(77)), lambda: t(array(77)).relu()),
    "add": (lambda: ops.add(X, array(2, 6, 9, 11, seed=1)), lambda: t(X) + t(array(2, 6, 9, 11, seed=1))),
    "matmul": (lambda: ops.matmul(array(17, 33), array(33, 9)), lambda: t(array(17, 33)) @ t(array(33, 9))),
    "linear": (
        lambda: ops.linear(array(5, 20), array(7, 20), array(7)),
        lambda: F.linear(t(array(5, 20)), t(array(7, 20)), t(array(7))),
    ),
    "max_pool2d": (lambda: ops.max_pool2d(X), lambda: F.max_pool2d(t(X), 3, 2, 1)),
    "avg_pool2d": (lambda: ops.avg_pool2d(X), lambda: F.avg_pool2d(t(X), 2)),
    "softmax": (lambda: ops.softmax(array(9, 50)), lambda: t(array(9, 50)).softmax(-1)),
    "layer_norm": (
        lambda: ops.layer_norm(array(9, 50), positive(50), array(50)),
        lambda: F.layer_norm(t(array(9, 50)), (50,), t(positive(50)), t(array(50))),
    ),
}


def normalised(a: Any) -> Any:
    gamma, beta, mean, var = map(t, NORM)
    return F.batch_norm(a, mean, var, gamma, beta)


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    ours, theirs = CASES[name]
    np.testing.assert_allclose(ours(), theirs().numpy(), rtol=2e-5, atol=2e-5)


def test_every_operator_is_tested() -> None:
    public = {
        n for n, v in vars(ops).items() if not n.startswith("_") and getattr(v, "__module__", "") == "opc.ops"
    }
    assert public == {name.split()[0] for name in CASES}


def test_channels_last_stays_channels_last() -> None:
    x = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = ops.conv2d(x, W, pad=1)
    np.testing.assert_allclose(y, ops.conv2d(X, W, pad=1), rtol=1e-5, atol=1e-5)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_torch_tensors_in_and_out() -> None:
    x, out = t(X), torch.empty(2, 8, 9, 11)
    ops.conv2d(x, t(W), pad=1, out=out)
    np.testing.assert_array_equal(out.numpy(), ops.conv2d(X, W, pad=1))
    y = ops.matmul(torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(4, 5, dtype=torch.bfloat16))
    assert y.dtype == ml_dtypes.bfloat16
    assert (y == 4).all()
    with pytest.raises(opc.RuntimeCallError, match="E0901"):
        ops.relu(torch.ones(3, requires_grad=True))


def test_one_kernel_per_layout() -> None:
    ops.softmax(array(3, 7))
    before = ops._specialised.cache_info()
    ops.softmax(array(3, 7, seed=5))
    assert ops._specialised.cache_info().misses == before.misses
    assert ops._specialised.cache_info().hits == before.hits + 1


def test_many_threads() -> None:
    expected = ops.matmul(array(40, 41), array(41, 42))
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(20):
            if not np.array_equal(ops.matmul(array(40, 41), array(41, 42)), expected):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: ops.matmul([[1.0]], [[1.0]]), "E0901"),
        (lambda: ops.matmul(array(2, 3), array(4, 5)), "E0902"),
        (lambda: ops.matmul(array(2), array(4, 5)), "E0902"),
        (lambda: ops.matmul(array(2, 3), array(3, 5).astype(np.float64)), "E0903"),
        (lambda: ops.relu(array(3).astype(np.complex64)), "E0903"),
        (lambda: ops.add(array(3), array(4)), "E0902"),
        (lambda: ops.matmul(array(2, 3), array(3, 5), out=np.empty((5, 2), np.float32).T), "E0904"),
        (lambda: ops.softmax(array(2, 3), out=np.empty((2, 4), np.float32)), "E0902"),
    ],
)
def test_bad_arrays(call: Callable[[], Any], code: str) -> None:
    with pytest.raises(opc.RuntimeCallError) as caught:
        call()
    assert caught.value.code == code


def test_any_memory_order_is_taken() -> None:
    random = np.random.default_rng(2)
    a, b = (random.standard_normal((6, 5)).astype(np.float32) for _ in range(2))
    np.testing.assert_allclose(opc.ops.matmul(a, b.T), a @ b.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(opc.ops.linear(a, b), a @ b.T, rtol=1e-5, atol=1e-5)
    x = random.standard_normal((2, 4, 6, 7)).astype(np.float32)
    w = random.standard_normal((8, 4, 3, 3)).astype(np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    turned = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    expected = opc.ops.conv2d(x, w, pad=1)
    for image in (x, last):
        np.testing.assert_allclose(opc.ops.conv2d(image, turned, pad=1), expected, rtol=1e-5, atol=1e-5)
