"""Random shapes of the shipped kernels on random, constant, adversarial and exact data."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import driver, machine
from opc.cpu import features
from opc.dtypes import DType
from opc.errors import OpcError
from opc.lang import File, kernel_names, parse
from tests.e2e.oracle import assert_correct

KINDS = ("normal", "constant", "integer", "shifted", "adversarial")
CPUS = [m for m in machine.names() if machine.load(m).kind == "cpu" and not features.missing(machine.load(m))]
# The sizes are small as they are, so shrinking would only spend the time budget of the suite.
# ``make test-long`` sets OPC_EXAMPLES: more cases, new ones each time.
EXAMPLES = settings(
    max_examples=int(os.environ.get("OPC_EXAMPLES", "25")),
    deadline=None,
    derandomize="OPC_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

small = st.integers(1, 9)
channels = st.one_of(st.integers(1, 20), st.sampled_from([16, 31, 32, 33, 64]))


@st.composite
def images(draw: st.DrawFn) -> dict[str, int]:
    return {"N": draw(st.integers(1, 5)), "H": draw(small), "W": draw(small)}


@st.composite
def convolution(draw: st.DrawFn) -> dict[str, int]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    window = {"R": draw(st.integers(1, 4)), "S": draw(st.integers(1, 4))}
    sizes = draw(images()) | window | {"CG": draw(st.integers(1, 9)), "groups": groups}
    sizes |= {"C": sizes["CG"] * groups, "K": draw(st.integers(1, 9)) * groups}
    sizes |= {
        "stride": draw(st.integers(1, 3)),
        "pad": draw(st.integers(0, 4)),
        "dilation": draw(st.integers(1, 2)),
    }
    return sizes


@st.composite
def fused(draw: st.DrawFn) -> dict[str, int]:
    sizes = draw(images()) | {"C": draw(channels), "K": draw(channels)}
    sizes |= {"R": draw(st.integers(1, 3)), "S": draw(st.integers(1, 3))}
    return sizes | {"stride": draw(st.integers(1, 3)), "pad": draw(st.integers(0, 3))}


@st.composite
def pooling(draw: st.DrawFn) -> dict[str, int]:
    size = draw(st.integers(1, 4))
    sizes = draw(images()) | {"C": draw(channels), "size": size, "stride": draw(st.integers(1, 3))}
    return sizes | {"pad": draw(st.integers(0, size - 1))}


@st.composite
def grouped(draw: st.DrawFn) -> dict[str, int]:
    groups, inside = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 9))
    sizes = draw(images()) | {"groups": groups, "CG": inside, "C": inside * groups}
    sizes |= {
        "K": groups * draw(st.integers(1, 18)),
        "R": draw(st.integers(1, 3)),
        "S": draw(st.integers(1, 3)),
    }
    return sizes | {"stride": draw(st.integers(1, 3)), "pad": draw(st.integers(0, 2))}


@st.composite
def training(draw: st.DrawFn) -> dict[str, int]:
    sizes = draw(images()) | {"groups": draw(st.sampled_from([1, 1, 2])), "CG": draw(st.integers(1, 20))}
    sizes |= {"C": sizes["CG"] * sizes["groups"], "K": draw(st.integers(1, 20)) * sizes["groups"]}
    sizes |= {"R": draw(st.integers(1, 3)), "S": draw(st.integers(1, 3)), "dilation": draw(st.integers(1, 2))}
    return sizes | {"stride": draw(st.integers(1, 3)), "pad": draw(st.integers(0, 3))}


matrices = st.fixed_dictionaries({"M": channels, "N": channels, "K": channels})
rows = st.fixed_dictionaries({"M": small, "N": st.integers(1, 140)})

CASES = {
    "conv2d": convolution(),
    "conv_bn_relu": fused(),
    "max_pool2d": pooling(),
    "matmul": matrices,
    "softmax": rows,
    "layer_norm": rows,
    "gelu": rows,
    "argmax": rows,
    "conv_bn_add_relu": fused(),
    "depthwise_conv_bn_relu": fused(),
    "grouped_conv": grouped(),
    "avg_pool2d": pooling(),
    "linear_bias_relu": matrices,
    "attention_scores": st.fixed_dictionaries(
        {"B": small, "H": small, "M": channels, "N": channels, "D": channels}
    ),
    "batch_stats": images().flatmap(
        lambda s: st.fixed_dictionaries({"C": channels} | {n: st.just(v) for n, v in s.items()})
    ),
    "batch_norm_train": fused(),
    "conv_bn_relu_train": training(),
    "softmax_cross_entropy": st.fixed_dictionaries({"N": small, "C": st.integers(1, 70)}),
    "concat": st.fixed_dictionaries({"N": small, "A": channels, "B": channels}),
}
if "OPC_EXAMPLES" in os.environ:  # `tests/lowering/test_roles.py` has a few
    CASES |= {"bn_relu_conv_stats": fused(), "conv_bn_add_relu_train": training(), "sgd_momentum": rows}


def source(name: str) -> File:
    return parse(kernels_dsl.source(name), f"kernels_dsl/{name}.k")


@pytest.mark.parametrize("kernel", CASES)
@pytest.mark.parametrize("name", [*CPUS, "ascend910"])
def test_shapes(kernel: str, name: str) -> None:
    target = machine.load(name)
    memory, cube = target.dtypes["memory"], target.dtypes.get("cube", target.dtypes["memory"])
    dtypes = [d for d in memory if d.is_float and d in cube]

    @EXAMPLES
    @given(CASES[kernel], st.sampled_from(KINDS), st.sampled_from(dtypes), st.sampled_from([None, "nhwc"]))
    def holds(sizes: dict[str, int], kind: str, dtype: DType, layout: str | None) -> None:
        known = kernel_sizes(kernel, sizes)
        try:
            function = driver.specialise(source(kernel), kernel, target, kernel, known, dtype, layout)
        except OpcError as error:
            if error.code.startswith("E03"):  # a window larger than its padded image
                return
            raise
        assert_correct(function, target, seed=1, kind=kind)

    holds()


def kernel_sizes(kernel: str, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes and attributes that this kernel has."""
    from opc.lang import kernel_info

    info = kernel_info(source(kernel), kernel, kernel)
    known = {*info.symbols, *(a.name for a in info.attributes)}
    return {name: value for name, value in sizes.items() if name in known}


def test_all_kernels_are_known() -> None:
    assert {k for name in CASES for k in kernel_names(source(name))} >= set(CASES)
