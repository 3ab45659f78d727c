"""Dynamic loss scaling from Python: an overflow skips the step to the bit, halves the scale, and training recovers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kernels_dsl
import opc
from opc.errors import RuntimeCallError

Array = np.ndarray[Any, np.dtype[Any]]
M, K, N = 16, 24, 10
HEAD = """
kernel head(x: T[M, K], param w: T[N, K], param bias: T[N], labels: i32[M]) -> (loss: f32[1]) {
  scores = linear(x, w, bias)
  loss = softmax_cross_entropy(scores, labels)
}
"""


class Training:
    """A linear classifier and its optimiser, products in f16."""

    def __init__(self, **about: Any) -> None:
        random = np.random.default_rng(0)
        self.x = random.standard_normal((M, K), np.float32).astype(
            np.float16 if about.get("dtype") else np.float32
        )
        self.labels = random.integers(0, N, M).astype(np.int32)
        self.pair = opc.grad(HEAD, wrt=["w", "bias"], M=M, K=K, N=N, **about)
        self.weights: list[Array] = [
            0.1 * random.standard_normal((N, K), np.float32),
            np.zeros(N, np.float32),
        ]
        self.momenta = [np.zeros(w.size, np.float32) for w in self.weights]
        self.rate = np.array([0.1], np.float32)

    def gradients(self, scale: Array, *weights: Array) -> tuple[float, tuple[Array, ...]]:
        loss, saved = self.pair.fwd(self.x, *weights, self.labels)
        return float(loss[0]), self.pair.bwd(saved, scale)

    def state(self) -> bytes:
        return b"".join(a.tobytes() for a in (*self.weights, *self.momenta))


def test_masters_are_what_the_kernel_reads() -> None:
    training, scaler = Training(mixed="f16"), opc.LossScale(2.0**22, interval=12)
    steps = [opc.compile(kernels_dsl.path("sgd_momentum_checked"), N=w.size) for w in training.weights]
    losses, scales, taken = [], [], []
    for _ in range(40):
        before, scale = training.state(), float(scaler.scale[0])
        loss, found = training.gradients(scaler.scale, *training.weights)
        good = scaler.update(*found)
        for step, w, m, g in zip(steps, training.weights, training.momenta, found, strict=True):
            step(w.reshape(-1), m, g.reshape(-1), training.rate, scaler.inverse, scaler.finite)
        assert (training.state() == before) is not good
        assert good == all(np.isfinite(g).all() for g in found)
        assert scaler.inverse[0] == 1 / scale
        if not good:
            assert scaler.scale[0] == scale / 2
        losses.append(loss)
        scales.append(scale)
        taken.append(good)
    assert not taken[0]
    first = taken.index(True)
    assert scales[first] < scales[0], "the scale falls until the gradients fit"
    assert scales[first + 12] == 2 * scales[first], "it grows after so many good steps"
    assert losses[-1] < 0.5 * losses[0]


def test_copies_in_f16() -> None:
    training, scaler = Training(dtype="f16"), opc.LossScale(2.0**22)
    kernel = kernels_dsl.path("sgd_momentum_scaled")
    steps = [opc.compile(kernel, dtype="f16", N=w.size) for w in training.weights]
    narrow = [w.astype(np.float16) for w in training.weights]
    losses, taken = [], []
    for _ in range(40):
        before = training.state(), [w.tobytes() for w in narrow]
        loss, found = training.gradients(scaler.scale, *narrow)
        taken.append(scaler.update(*found))
        arrays = zip(steps, training.weights, training.momenta, found, narrow, strict=True)
        for step, w, m, g, low in arrays:
            about = training.rate, scaler.inverse, scaler.finite
            step(w.reshape(-1), m, g.reshape(-1), *about, out=low.reshape(-1))
        assert taken[-1] or (training.state(), [w.tobytes() for w in narrow]) == before
        losses.append(loss)
    assert not taken[0]
    assert taken[-1]
    assert losses[-1] < 0.5 * losses[0]


def test_it_scales_back_within_its_bounds() -> None:
    scaler = opc.LossScale(8, growth=4, backoff=0.25, interval=2, most=64)
    image = np.zeros((1, 5, 4, 3), np.float16).transpose(0, 3, 1, 2)
    bad = image.copy(order="K")
    bad[0, 1, 2, 3] = np.nan
    seen = []
    for gradient in (image, image, image, image, image, bad, bad, bad, bad):
        scaler.update(np.ones(3, np.float32), gradient)
        seen.append((float(scaler.scale[0]), float(scaler.steps[0]), float(scaler.finite[0])))
    assert [s for s, _, _ in seen] == [8, 32, 32, 64, 64, 16, 4, 1, 1]
    assert [n for _, n, _ in seen] == [1, 0, 1, 0, 1, 0, 0, 0, 0]
    assert [f for _, _, f in seen] == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert repr(scaler) == "<opc.LossScale 1 after 0 good steps>"


def test_refusals() -> None:
    for options in (
        {"initial": 0},
        {"growth": 0.5},
        {"backoff": 1.0},
        {"interval": 0},
        {"initial": float("nan")},
    ):
        with pytest.raises(RuntimeCallError) as error:
            opc.LossScale(**options)
        assert error.value.code == "E0944"
    with pytest.raises(RuntimeCallError) as wrong:
        opc.LossScale().update(3.0)
    assert wrong.value.code == "E0901"
