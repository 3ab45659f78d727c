"""opc.torch: values and gradients against torch, its own checks of operators, no copies, torch.compile."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import opc
from opc.cpu import threads

torch = pytest.importorskip("torch", reason="opc.torch needs PyTorch (make setup-dev)")

import opc.torch  # noqa: E402
from opc.torch import blocks, tensors  # noqa: E402

DENSE = """
kernel dense(x: T[M, K], param w: T[K, N], bias: f32[N], slope: f32 = 0.5) -> (y: T[M, N]) {
  a[m, n] = sum[k](x[m, k] * w[k, n])
  y[m, n] = select(a[m, n] + bias[n] > 0, 1, slope) * (a[m, n] + bias[n])
}
"""
WRT = ("x", "w", "bias")


def reference(
    x: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any, training: bool, **window: int
) -> Any:
    a = torch.nn.functional.conv2d(
        x, w, stride=window.get("stride", 1), padding=window.get("pad", 1), groups=window.get("groups", 1)
    )
    return torch.relu(torch.nn.functional.batch_norm(a, mean, var, gamma, beta, training))


def block(dtype: Any, last: bool = False, groups: int = 1) -> list[Any]:
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(2, 8, 9, 7, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if last else x
    w = torch.randn(12, 8 // groups, 3, 3, dtype=dtype) * 0.2
    leaves = [x, w, torch.rand(12, dtype=wide) + 0.5, torch.randn(12, dtype=wide)]
    return [*(t.requires_grad_() for t in leaves), torch.zeros(12, dtype=wide), torch.ones(12, dtype=wide)]


@pytest.mark.parametrize(
    ("dtype", "last", "training", "stride"),
    [
        ("float32", True, True, 1),
        ("float32", False, False, 2),
        ("bfloat16", True, True, 2),
        ("bfloat16", True, False, 1),
        ("float64", False, True, 1),
    ],
)
def test_values_and_gradients(dtype: str, last: bool, training: bool, stride: int) -> None:
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-12}[dtype]
    ours, theirs = (block(getattr(torch, dtype), last) for _ in range(2))
    y = opc.torch.conv_bn_relu(*ours, training=training, stride=stride)
    z = reference(*theirs, training, stride=stride)
    assert y.stride() == z.stride()
    torch.testing.assert_close(y, z, rtol=tolerance, atol=tolerance)
    dy = torch.randn_like(z)
    for p, q in zip(
        torch.autograd.grad(y, ours[:4], dy), torch.autograd.grad(z, theirs[:4], dy), strict=True
    ):
        assert p.dtype == q.dtype
        assert float((p - q).abs().max()) <= tolerance * 4 * float(q.abs().max())
    for p, q in zip(ours[4:], theirs[4:], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
        assert not p.requires_grad


def test_master_weights_and_groups() -> None:
    x, w, *rest = block(torch.float32, True, groups=4)
    y = opc.torch.conv_bn_relu(x.detach().bfloat16(), w, *rest, training=True, groups=4)
    z = reference(x.detach(), w, *(t.clone() for t in rest), True, groups=4)
    torch.testing.assert_close(y.float(), z, rtol=0.05, atol=0.05)
    (dw,) = torch.autograd.grad(y.float().sum(), [w])
    assert (dw.dtype, dw.shape) == (torch.float32, w.shape)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_gradcheck(training: bool) -> None:
    x, w, gamma, beta, mean, var = block(torch.float64)
    x, w = x.detach()[:, :2, :4, :4].requires_grad_(), w.detach()[:3, :2].requires_grad_()
    gamma, beta = (t.detach()[:3].requires_grad_() for t in (gamma, beta))

    def call(*given: Any) -> Any:
        return opc.torch.conv_bn_relu(*given, mean[:3].clone(), var[:3].clone(), training=training)

    assert torch.autograd.gradcheck(call, (x, w, gamma, beta))


@pytest.mark.parametrize("which", ["training", "inference", "dense"])
def test_opcheck(which: str) -> None:
    if which == "dense":
        made = opc.torch.function(DENSE, wrt=WRT, name="checked")
        given: list[Any] = [torch.randn(s, requires_grad=True) for s in ((5, 8), (8, 6), (6,))]
        numbers: tuple[Any, ...] = (0.5,)
    else:
        made = blocks.TRAINING if which == "training" else blocks.INFERENCE
        given, numbers = (
            block(torch.float32, True),
            (1, 1, 1, 1, 1e-5, 0.1)[: 6 if which == "training" else 5],
        )
    operators = made.operators
    torch.library.opcheck(operators.plain, (*given, *numbers))
    torch.library.opcheck(operators.forward, (*given, *numbers, " ".join(operators.kernels.wrt)))
    *_, saved = operators.forward(*given, *numbers, " ".join(operators.kernels.wrt))
    assert saved.dtype == torch.uint8


def test_no_tensor_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    given = block(torch.bfloat16, last=True)
    opc.torch.conv_bn_relu(*given, training=True)
    copies = []
    plain = tensors.empty
    monkeypatch.setattr(tensors, "empty", lambda wanted: (copies.append(wanted.name), plain(wanted))[1])
    y = opc.torch.conv_bn_relu(*given, training=True)
    torch.autograd.grad(y, given[:4], torch.randn_like(y))
    assert copies == ["running_mean", "running_var"], "new values of what is updated, and nothing else"
    torch.autograd.grad(opc.torch.conv_bn_relu(*given).float().sum(), given[:1])
    assert copies[2:] == ["d_y"], "an expanded gradient is no array"


def test_only_what_requires_gradients_is_differentiated() -> None:
    x, w, *rest = block(torch.float32)
    y = opc.torch.conv_bn_relu(x.detach(), w, *rest, training=True)
    call = y.grad_fn.next_functions if hasattr(y.grad_fn, "next_functions") else None
    assert call
    (dw,) = torch.autograd.grad(y.sum(), [w])
    assert dw.abs().max() > 0
    with torch.no_grad():
        assert opc.torch.conv_bn_relu(x, w, *rest, training=True).grad_fn is None


def test_under_torch_compile() -> None:
    def step(*given: Any) -> Any:
        return opc.torch.conv_bn_relu(*given, training=True) * 2

    ours, theirs = (block(torch.float32, True) for _ in range(2))
    y = torch.compile(step, fullgraph=True, backend="aot_eager")(*ours)
    z = step(*theirs)
    dy = torch.randn_like(z)
    assert torch.equal(y, z)
    for p, q in zip(
        torch.autograd.grad(y, ours[:4], dy), torch.autograd.grad(z, theirs[:4], dy), strict=True
    ):
        assert torch.equal(p, q)
    assert torch.equal(ours[4], theirs[4])


def test_a_source_a_pair_and_a_kernel_as_functions() -> None:
    torch.manual_seed(0)
    x, w, bias = (torch.randn(s, requires_grad=True) for s in ((5, 8), (8, 6), (6,)))
    a = x @ w + bias
    wanted = torch.where(a > 0, a, a / 2)
    gradients = torch.autograd.grad(wanted.sum(), (x, w, bias))
    sizes = {"M": 5, "K": 8, "N": 6}
    pair = opc.grad(DENSE, "dense", wrt=WRT, **sizes)
    for made in (opc.torch.function(DENSE, wrt=WRT), opc.torch.function(pair)):
        y = made(x, bias=bias, w=w)
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
        for p, q in zip(torch.autograd.grad(y.sum(), (x, w, bias)), gradients, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    plain = opc.torch.function(opc.compile(DENSE, **sizes))
    torch.testing.assert_close(plain(x.detach(), w.detach(), bias.detach()), wanted)
    assert "(x, w, bias)" in repr(plain)
    y = opc.torch.function(DENSE)(x.detach(), w.detach(), bias.detach(), slope=0.0)
    torch.testing.assert_close(y, a.relu(), rtol=1e-5, atol=1e-5)


def test_names_that_gradients_would_have() -> None:
    text = "kernel f(x: T[N], d_x: T[N], d_y: T[N]) -> (y: T[N]) { y[i] = x[i] * d_x[i] + d_y[i] }"
    x, d_x, d_y = (torch.randn(6, requires_grad=True) for _ in range(3))
    pair = opc.grad(text, "f", wrt=["d_x", "x"], N=6)
    assert pair.wrt == ("d_x", "x")
    for made in (opc.torch.function(pair), opc.torch.function(text, wrt=["x", "d_x"])):
        found = torch.autograd.grad(made(x, d_x, d_y.detach()).sum(), (x, d_x))
        assert [torch.equal(p, q) for p, q in zip(found, (d_x, x), strict=True)] == [True, True]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, in forward mode
def test_what_cannot_be_used_says_so() -> None:
    made = opc.torch.function(DENSE, wrt=["x"])
    x, w, bias = (torch.randn(s) for s in ((5, 8), (8, 6), (6,)))
    for code, call in (
        ("E0903", lambda: made(x, w, bias.half())),
        ("E0903", lambda: made(x.to(torch.complex64), w, bias)),
        ("E0902", lambda: made(x, w, bias[:5])),
        ("E0906", lambda: made(x, w)),
        ("E0907", lambda: made(x, w, bias, steep=1)),
        ("E0908", lambda: made(x, w, bias, x=x)),
        ("E0940", lambda: made(x.numpy(), w, bias)),
        ("E0940", lambda: made(x.to("meta"), w, bias)),
        ("E0941", lambda: made(x, w.clone().requires_grad_(), bias)),
        ("E0941", lambda: made(x, w, bias, slope=torch.ones((), requires_grad=True))),
        ("E0941", lambda: torch.func.jvp(lambda t: made(t, w, bias), (x,), (x,))),
        ("E0317", lambda: made(x, w, bias, slope="steep")),
        ("E0317", lambda: made(x, w, bias, slope=(1, 2))),
    ):
        with pytest.raises(opc.RuntimeCallError, match=code):
            call()


def test_modules_that_hold_functions_are_copied_and_pickled() -> None:
    x, w, bias = (torch.randn(s) for s in ((5, 8), (8, 6), (6,)))
    module = torch.nn.Module()
    module.dense = opc.torch.function(DENSE, wrt=["x"])
    assert copy.deepcopy(module).dense is module.dense
    there = pickle.loads(pickle.dumps(module)).dense
    assert torch.equal(there(x, w, bias, slope=0.25), module.dense(x, w, bias, slope=0.25))
    x.requires_grad_()
    assert torch.equal(*(torch.autograd.grad(f(x, w, bias).sum(), x)[0] for f in (there, module.dense)))


def test_statistics_that_are_missing() -> None:
    x, w, ones = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3), torch.ones(3)
    with pytest.raises(opc.RuntimeCallError, match=r"E0940\]: 'running_mean'"):
        opc.torch.conv_bn_relu(x, w, ones, ones, None, None, training=True)


def test_one_pool_of_threads() -> None:
    found = threads.runtime()
    assert found is not None
    assert str(Path(torch.__file__).parent) in found.name


def test_torch_is_loaded_on_request_only() -> None:
    code = "import opc, opc.ops, opc.gradients, sys; print('torch' in sys.modules, 'torch' in dir(opc))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    hidden = "import sys; sys.modules['torch'] = None\nimport opc.torch"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert "E0939" in done.stderr
