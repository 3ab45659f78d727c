"""The training forms of the operators mean what PyTorch's do: interpreted, and compared with NumPy and with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import kernels_dsl
from opc.dtypes import DType
from opc.lang import lower
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Function

Array = npt.NDArray[Any]
ROUNDED = 1e-6  # what is kept in f32
IMAGES = (
    {"N": 3, "C": 4, "H": 5, "W": 2},
    {"N": 1, "C": 3, "H": 2, "W": 1},
    {"N": 2, "C": 1, "H": 1, "W": 1},
)


def shipped(name: str, **sizes: float) -> Function:
    return lower(kernels_dsl.source(name), f"kernels_dsl/{name}.k", sizes=sizes, dtype=DType.F64)


def arguments(f: Function, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    found = {a.tensor.name: random.normal(size=a.tensor.shape).astype(np.float32) for a in f.args}
    positive = {n: abs(v) + 0.5 if n in ("running_var", "rate") else v for n, v in found.items()}
    return {a.tensor.name: positive[a.tensor.name].astype(a.tensor.dtype.numpy) for a in f.args}


def same(actual: Array, expected: Array, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def column(values: Array) -> Array:
    return values.reshape(1, -1, 1, 1)


def batch_norm(a: Array, d: dict[str, Array], momentum: float = 0.1) -> tuple[Array, Array, Array]:
    """Result, running mean and running variance."""
    axes, count = (0, 2, 3), a.size // a.shape[1]
    mean, var = a.mean(axes), a.var(axes)
    y = (a - column(mean)) / np.sqrt(column(var) + 1e-5) * column(d["gamma"]) + column(d["beta"])
    unbiased = var * count / max(count - 1, 1)
    old_mean, old_var = d["running_mean"], d["running_var"]
    return y, (1 - momentum) * old_mean + momentum * mean, (1 - momentum) * old_var + momentum * unbiased


def holds(found: dict[str, Array], y: Array, mean: Array, var: Array) -> None:
    same(found["y"], y)
    same(found["running_mean"], mean, ROUNDED)
    same(found["running_var"], var, ROUNDED)


@pytest.mark.parametrize("sizes", IMAGES)
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_batch_norm_uses_the_statistics_of_the_batch(sizes: dict[str, int], momentum: float) -> None:
    f = shipped("batch_norm_train", **sizes, momentum=momentum)
    d = arguments(f)
    holds(evaluate(f, d), *batch_norm(d["x"], d, momentum))


def test_one_element_per_channel_has_variance_zero() -> None:
    f = shipped("batch_norm_train", N=1, C=5, H=1, W=1, momentum=1)
    d = arguments(f)
    found = evaluate(f, d)
    same(found["y"], column(d["beta"]))
    same(found["running_mean"], d["x"].reshape(-1), ROUNDED)
    same(found["running_var"], np.zeros(5), ROUNDED)


@pytest.mark.parametrize("name", ["conv_bn_relu_train", "conv_bn_add_relu_train"])
def test_a_convolution_is_normalised_by_its_own_statistics(name: str) -> None:
    sizes = {"N": 2, "C": 4, "H": 5, "W": 6, "K": 6, "CG": 2, "R": 3, "S": 2}
    attributes = {"stride": 2, "pad": 2, "dilation": 2, "groups": 2}
    f = shipped(name, **sizes, **attributes)
    d = arguments(f)
    conv = shipped("conv2d", **sizes, **attributes)
    y, *running = batch_norm(evaluate(conv, {n: d[n] for n in ("x", "w")})["y"], d)
    holds(evaluate(f, d), np.maximum(y + d.get("residual", 0), 0), *running)


def entropy(x: Array, labels: Array) -> float:
    wide = x - x.max(1, keepdims=True)
    rows = np.log(np.exp(wide).sum(1))
    kept = (labels >= 0) & (labels < x.shape[1])
    picked = wide[np.arange(len(x)), np.where(kept, labels, 0)]
    return float((rows - picked)[kept].sum() / kept.sum())


@pytest.mark.parametrize("shift", [0, 500])
def test_cross_entropy_neither_overflows_nor_counts_unknown_labels(shift: int) -> None:
    f = shipped("softmax_cross_entropy", N=6, C=7)
    x = arguments(f)["x"] * 3 + shift
    labels = np.array([0, 6, 3, -100, 7, 1], np.int32)
    found = evaluate(f, {"x": x, "labels": labels})
    same(found["loss"], np.array([entropy(x, labels)]), ROUNDED)


@pytest.mark.parametrize("nesterov", [0, 1])
def test_gradient_descent_with_momentum_and_decay(nesterov: int) -> None:
    f = shipped("sgd_momentum", N=9, momentum=0.8, weight_decay=0.01, nesterov=nesterov)
    d = arguments(f)
    found = evaluate(f, d)
    step = d["g"] + 0.01 * d["w"]
    m = 0.8 * d["m"] + step
    same(found["m"], m, ROUNDED)
    same(found["w"], d["w"] - d["rate"] * (step + 0.8 * m if nesterov else m), ROUNDED)


def test_the_same_as_torch_batch_norm() -> None:
    torch = pytest.importorskip("torch")
    f = shipped("batch_norm_train", N=3, C=4, H=5, W=2, momentum=0.3)
    d = arguments(f)
    t = {n: torch.from_numpy(a.astype(np.float64)) for n, a in d.items()}
    y = torch.nn.functional.batch_norm(
        t["x"], t["running_mean"], t["running_var"], t["gamma"], t["beta"], training=True, momentum=0.3
    )
    holds(evaluate(f, d), y.numpy(), t["running_mean"].numpy(), t["running_var"].numpy())


def test_the_same_as_torch_cross_entropy() -> None:
    torch = pytest.importorskip("torch")
    f = shipped("softmax_cross_entropy", N=6, C=7)
    x, labels = arguments(f)["x"], np.array([0, 6, 3, -100, 2, 1], np.int32)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(x), torch.from_numpy(labels).long())
    same(evaluate(f, {"x": x, "labels": labels})["loss"], loss.numpy().reshape(1), ROUNDED)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_same_as_torch_sgd(nesterov: bool) -> None:
    torch = pytest.importorskip("torch")
    f = shipped("sgd_momentum", N=9, momentum=0.9, weight_decay=0.02, nesterov=int(nesterov))
    d = arguments(f)
    d["m"][...] = 0  # torch begins with the first gradient, which is what a momentum of zeros gives
    w = torch.nn.Parameter(torch.from_numpy(d["w"].copy()))
    step = torch.optim.SGD([w], float(d["rate"][0]), momentum=0.9, weight_decay=0.02, nesterov=nesterov)
    for _ in range(3):
        w.grad = torch.from_numpy(d["g"])
        step.step()
        d.update(evaluate(f, d))
    same(d["w"], w.detach().numpy(), ROUNDED)


def scaled_step(state: dict[str, Array], g: Array) -> None:
    """One optimiser step of float16 gradients, ``state`` in place."""
    flags = evaluate(shipped("all_finite", N=g.size), {"g": g})["finite"]
    scaling = shipped("loss_scale", M=1, interval=2, most=16)
    found = evaluate(scaling, {"scale": state["scale"], "steps": state["steps"], "flags": flags})
    given = {n: state[n] for n in ("w", "m", "rate")} | {"g": g}
    given |= {n: found[n] for n in ("inverse", "finite")}
    after = evaluate(shipped("sgd_momentum_scaled", N=g.size), given)
    for name in ("scale", "steps", "w", "m"):
        state[name] = (found | after)[name].astype(np.float32)


def test_a_step_that_overflows_is_skipped_and_the_scale_recovers() -> None:
    state = {"w": np.ones(4), "m": np.zeros(4), "rate": np.array([0.5])}
    state |= {"scale": np.array([8.0]), "steps": np.zeros(1)}
    good = np.full(4, 2.0)
    scales = []
    for bad in (np.inf, None, np.nan, None, None, None, None, None, None):
        before = state["w"].copy()
        g = good * state["scale"]
        if bad is not None:
            g[1] = bad
        scaled_step(state, g)
        assert np.array_equal(state["w"], before) == (bad is not None)
        scales.append(float(state["scale"][0]))
    assert scales == [4, 4, 2, 2, 4, 4, 8, 8, 16]
    plain = shipped("sgd_momentum", N=4)
    w, m = np.ones(4), np.zeros(4)
    for _ in range(7):
        step = evaluate(plain, {"w": w, "m": m, "g": good, "rate": state["rate"]})
        w, m = step["w"], step["m"]
    same(state["w"], w, ROUNDED)
