"""Every shipped kernel on every machine in every dtype that it declares, against the oracle's bound."""

from __future__ import annotations

from functools import cache

import pytest

import kernels_dsl
from opc import driver, machine
from opc.cpu import features
from opc.dtypes import DType
from opc.errors import LanguageError, MachineError
from opc.lang import File, kernel_names, parse
from tests.e2e.oracle import assert_correct

MACHINES = [
    m for m in machine.names() if machine.load(m).kind == "npu" or not features.missing(machine.load(m))
]

# Sizes that keep the NumPy oracle and the simulator quick, odd where that is harder.
SMALL = {
    "conv_bn_relu": {"N": 2, "C": 19, "H": 9, "W": 11, "K": 21},
    "conv_bn_add_relu": {"N": 2, "C": 19, "H": 9, "W": 11, "K": 21},
    "bn_relu_conv_stats": {"N": 3, "C": 19, "H": 9, "W": 11, "K": 21},
    "bn_relu_conv": {"N": 2, "C": 19, "H": 9, "W": 11, "K": 21, "stride": 2},
    "conv_bn_relu_train": {"N": 2, "C": 19, "H": 9, "W": 11, "K": 21, "CG": 19},
    "conv_bn_add_relu_train": {"N": 3, "C": 19, "H": 9, "W": 7, "K": 21, "CG": 19, "stride": 2},
    "conv_stats": {"N": 2, "C": 19, "H": 9, "W": 11, "K": 21, "stride": 2},
}


@cache
def source(name: str) -> File:
    return parse(kernels_dsl.source(name), f"kernels_dsl/{name}.k")


CASES = [(file, kernel) for file in kernels_dsl.names() for kernel in kernel_names(source(file))]


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(("file", "kernel"), CASES, ids=[k for _, k in CASES])
def test_kernel(file: str, kernel: str, name: str, dtype: DType) -> None:
    target = machine.load(name)
    if dtype not in target.dtypes["memory"]:
        pytest.skip(f"{name} has no {dtype}")
    try:
        function = driver.specialise(source(file), file, target, kernel, SMALL.get(kernel, {}), dtype)
        assert_correct(function, target)
    except LanguageError:
        if dtype.is_float:
            raise
        pytest.skip(f"{kernel} has no meaning in {dtype}")
    except MachineError as error:
        if error.code != "E0620":
            raise
        pytest.skip(f"{name} refuses: {error.diagnostics[0].message}")


def test_there_are_enough_kernels() -> None:
    assert len(kernels_dsl.names()) >= 14
    wanted = {
        "conv_bn_relu",
        "conv_bn_add_relu",
        "depthwise_conv_bn_relu",
        "grouped_conv",
        "linear_bias_relu",
        "matmul",
        "max_pool2d",
        "softmax",
        "layer_norm",
        "gelu",
        "attention_scores",
        "concat",
    }
    assert wanted <= {kernel for _, kernel in CASES}
