"""Kernels of mixed precision, compiled: within the bound of what they became, forward and backward; every entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kernels_dsl
import opc
from opc import cli, data, driver, machine
from opc.cpu import features
from opc.errors import MachineError, OpcError
from opc.tensor.bound import check
from tests.e2e.oracle import results
from tests.e2e.test_gradients import assert_correct

HOST = features.pick_machine()
SMALL = {"N": 2, "C": 6, "H": 7, "W": 5, "K": 19, "CG": 6, "R": 3, "S": 3}
KERNELS = {
    "conv_bn_relu_train": SMALL,
    "conv_bn_add_relu": {"N": 1, "C": 4, "H": 14, "W": 14, "K": 8},  # whose d_b is read in parts and whole
    "linear_bias_relu": {"M": 9, "K": 21, "N": 13},
    "attention_scores": {"B": 1, "H": 2, "M": 5, "N": 7, "D": 9},
}
DENSE = """
kernel dense(x: T[M, K], param w: T[N, K], param v: T[L, N], labels: i32[M]) -> (loss: f32[1]) {
  example M = 16, K = 24, N = 32, L = 10
  a[m, n] = sum[k](x[m, k] * w[n, k])
  h[m, n] = max(a[m, n], 0)
  scores[m, l] = sum[n](h[m, n] * v[l, n])
  loss = softmax_cross_entropy(scores, labels)
}
"""


@pytest.mark.parametrize("target", [(HOST, "bf16"), ("ascend910", "f16")], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_within_the_bound(name: str, target: tuple[str, str]) -> None:
    where, low = machine.load(target[0]), target[1]
    source = kernels_dsl.source(name)
    function = driver.specialise(source, name, where, name, KERNELS[name], None, "nhwc", low)
    arrays = data.arguments(function, 3)
    expected = driver.build(function, where).oracle(arrays)
    found = results(function, where, arrays, 1)
    for result in function.results:
        report = check(found[result], expected[result])
        assert report.ok, f"{result}: {report}"
    assert_correct(function, target[0], "normal")


def test_weights_learn_as_in_f32() -> None:
    """The same steps with and without: losses stay together, weights are f32 and move by less than bf16 resolves."""
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((16, 24), np.float32), random.integers(0, 10, 16).astype(np.int32)
    start = [random.standard_normal(s, np.float32) * 0.2 for s in ((32, 24), (10, 32))]
    losses = {}
    for mixed in ("", "bf16", "f16"):
        pair = opc.grad(DENSE, wrt=["w", "v"], mixed=mixed)
        weights, found = [w.copy() for w in start], []
        for _ in range(40):
            loss, saved = pair.fwd(x, *weights, labels)
            found.append(float(loss[0]))
            for w, d in zip(weights, pair.bwd(saved, np.ones(1, np.float32)), strict=True):
                assert d.dtype == np.float32
                w -= np.float32(0.2) * d
        losses[mixed] = np.array(found)
    assert losses[""][-1] < 0.3 * losses[""][0]
    for mixed in ("bf16", "f16"):
        np.testing.assert_allclose(losses[mixed], losses[""], rtol=0.02)


def test_a_kernel_remembers(tmp_path: Path) -> None:
    kernel = opc.compile(kernels_dsl.path("linear"), mixed="bf16", M=4)
    x, w, b = (
        np.full(kernel.empty(n).shape, v, np.float32) for n, v in (("x", 1 / 3), ("w", 1), ("bias", 0))
    )
    rounded = float(x.astype(kernel.build.source.tensors()["x_bf16"].dtype.numpy)[0, 0]) * x.shape[1]
    assert kernel(x, w, b)[0, 0] == rounded
    kernel.save(tmp_path / "k.opc")
    assert opc.load(tmp_path / "k.opc")(x, w, b)[0, 0] == rounded
    backward = opc.grad(kernel, wrt=["w"]).bwd.kernel
    assert "x_bf16" in backward.build.source.tensors()


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    for options, code in (({"mixed": "int4"}, "E0942"), ({"mixed": "bf16", "dtype": "f16"}, "E0714")):
        with pytest.raises(OpcError) as error:
            opc.compile(kernels_dsl.path("linear"), **options)
        assert error.value.code == code
    with pytest.raises(MachineError) as lacking:
        opc.compile(kernels_dsl.path("linear"), mixed="bf16", machine="ascend910")
    assert lacking.value.code == "E0620"
    path = str(kernels_dsl.path("linear"))
    assert cli.run(["run", path, "--mixed", "f16", "--set", "M=4"]) == 0
    assert cli.run(["check", path, "--mixed", "bf16", "--dtype", "bf16"]) == 1
    assert cli.run(["run", path, "--mixed", "int4"]) == 2
    assert "E0714" in capsys.readouterr().err
