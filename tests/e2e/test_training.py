"""Training forms where statistics are hard: one element per channel, a large mean, no variance; on two threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kernels_dsl
from opc import data, driver, machine
from opc.cpu import features
from opc.machine.model import Machine
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from tests.e2e.oracle import results

HOST = features.pick_machine()
ONE = {"N": 1, "C": 37, "H": 1, "W": 1}
CONVOLUTION = {"N": 5, "C": 6, "H": 13, "W": 11, "K": 37, "CG": 6, "R": 3, "S": 3}
CASES = {
    "one": ("batch_norm_train", ONE, "normal"),
    "mean": ("batch_norm_train", {"N": 3, "C": 5, "H": 31, "W": 17}, "shifted"),
    "constant": ("batch_norm_train", {"N": 3, "C": 5, "H": 31, "W": 17}, "constant"),
    "conv_one": ("conv_bn_relu_train", {**ONE, "K": 19, "CG": 37, "R": 3, "S": 3}, "normal"),
    "conv_mean": ("conv_bn_relu_train", CONVOLUTION, "shifted"),
    "conv_constant": ("conv_bn_relu_train", CONVOLUTION, "constant"),
    "conv": ("conv_bn_add_relu_train", CONVOLUTION, "normal"),
}


def specialise(name: str, target: Machine, sizes: dict[str, Any], dtype: str, layout: str) -> Function:
    return driver.specialise(kernels_dsl.source(name), name, target, None, sizes, dtype, layout)


def hold(function: Function, target: Machine, kind: str) -> None:
    """Within the bound; on a CPU the same bits on one thread and on two."""
    arrays = data.arguments(function, 3, kind)
    expected = oracle(function, arrays)
    threads = (1,) if target.kind == "npu" else (1, 2)
    copies = [{n: a.copy(order="K") for n, a in arrays.items()} for _ in threads]
    found = [results(function, target, copy, n) for n, copy in zip(threads, copies, strict=True)]
    for name in function.results:
        report = check(found[0][name], expected[name])
        assert report.ok, f"{name}: {report}"
        assert all(f[name].tobytes() == found[0][name].tobytes() for f in found)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("name", [HOST, "ascend910"])
@pytest.mark.parametrize("case", CASES)
def test_statistics(case: str, name: str, dtype: str, layout: str) -> None:
    kernel, sizes, kind = CASES[case]
    target = machine.load(name)
    if kernel.startswith("conv") and dtype not in target.dtypes.get("cube", (dtype,)):
        pytest.skip(f"the matrix unit of {name} has no {dtype}")
    hold(specialise(kernel, target, sizes, dtype, layout), target, kind)


def test_a_large_mean_costs_no_digits() -> None:
    target = machine.load(HOST)
    sizes = {"N": 8, "C": 3, "H": 20, "W": 20, "momentum": 1}
    function = specialise("batch_norm_train", target, sizes, "f32", "nhwc")
    arrays = data.arguments(function, 1)
    x = np.random.default_rng(2).normal(1e4, 1, arrays["x"].shape)
    arrays["x"][...] = x
    found = results(function, target, arrays)
    expected = arrays["x"].astype(np.float64).var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(found["running_var"], expected, rtol=5e-4)


SUMS = """kernel sums(x: T[M, C], y: T[M, C]) -> (first: f32[C], second: f32[C], top: f32[C]) {
  "Several reductions of columns over one intermediate that nobody else reads."
  d[m, c] = exp(x[m, c]) - y[m, c]
  first[c] = sum[m](d[m, c] * y[m, c])
  second[c] = sum[m](d[m, c])
  top[c] = max[m](d[m, c])
}"""


@pytest.mark.parametrize("rows", [64, 1000, 1021, 1536])
@pytest.mark.parametrize("columns", [3, 40])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_sums_of_one_intermediate(rows: int, columns: int, dtype: str) -> None:
    target = machine.load(HOST)
    sizes = {"M": rows, "C": columns}
    hold(driver.specialise(SUMS, "sums", target, None, sizes, dtype, None), target, "normal")
