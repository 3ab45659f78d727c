"""Affine maps folded under the licence: the same values, and kernels within the bound of what was made of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import data, driver, machine
from opc.build import run_passes
from opc.dtypes import DType
from opc.pipeline import FAST, Context
from opc.tensor.bound import check
from opc.tensor.interpret import evaluate, oracle_under
from opc.tensor.ir import Call, Function, walk
from opc.tensor.text import parse_function
from opc.tensor.views import viewed
from passes.tensor.fold_affine import FoldAffine
from tests.e2e.test_kernels import MACHINES, SMALL

CONTEXT = Context(machine.load("avx2"), FAST)
TEXT = """func v1 chain {{
  arg x: f32[16,6] input
  arg w: f32[2,6] param
  arg p: f32[2] param
  arg r: f32[2] input
  op a: f32[16,2] sum accumulate f32 {{
    piece m<16, n<2 reduce k<6 at m, n = mul(x[m, k], w[n, k])
  }}
  op y: f32[16,2] {{
    piece m<16, n<2 at m, n = {body}
  }}
  return y
}}
"""
COEFFICIENTS = ("p[n]", "r[n]", "3.0")


def folded(function: Function) -> Function:
    return FoldAffine().run(function, CONTEXT)


STEPS = st.tuples(st.sampled_from(("add", "sub", "mul", "div")), st.sampled_from(COEFFICIENTS), st.booleans())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(STEPS, min_size=1, max_size=6), st.integers(0, 2**16))
def test_random_chains_keep_their_values(steps: list[tuple[str, str, bool]], seed: int) -> None:
    body = "a[m, n]"
    for fn, other, swapped in steps:
        body = f"{fn}({other}, {body})" if swapped and fn in ("add", "mul") else f"{fn}({body}, {other})"
    source = parse_function(TEXT.format(body=body), "chain")
    arrays = {n: np.abs(v) + 0.5 for n, v in data.arguments(source, seed).items()}
    result = folded(source)
    for name, value in evaluate(source, arrays).items():
        np.testing.assert_allclose(evaluate(result, arrays)[name], value, rtol=1e-9, atol=1e-9)
    report = check(
        evaluate(result, arrays, np.float32, quantise=True)["y"], oracle_under(source, result, arrays)["y"]
    )
    assert report.ok, report


def test_batch_norm_leaves_one_sum_to_the_epilogue() -> None:
    source = _specialised("conv_bn_relu", "ascend910", "f16")
    lowered, _ = run_passes(source, driver.pipeline("tensor"), machine.load("ascend910"), numerics=FAST)
    assert [n.fn for n in walk(lowered.ops[-1].pieces[0].body) if isinstance(n, Call)] == ["add", "max"]


def test_statistics_of_the_run_leave_a_product_and_a_sum() -> None:
    source = _specialised("bn_relu_conv_stats", "ascend910", "f16")
    body = folded(source).ops[0].pieces[0].body
    over_pixels = [n.fn for n in walk(body) if isinstance(n, Call) and _reads(n, "x")]
    assert over_pixels == ["mul", "add", "max", "f16"]


def _reads(node: Call, name: str) -> bool:
    return any(getattr(n, "tensor", None) == name for n in walk(node))


def _specialised(kernel: str, target: str, dtype: DType | str) -> Function:
    sizes: dict[str, Any] = SMALL.get(kernel, {})
    return driver.specialise(
        kernels_dsl.source(kernel), kernel, machine.load(target), kernel, sizes, dtype, "nhwc"
    )


KERNELS = ("conv_bn_relu", "conv_bn_add_relu", "bn_relu_conv_stats", "depthwise_conv_bn_relu", "batch_norm")


@pytest.mark.parametrize(("name", "kernel"), list(product(MACHINES, KERNELS)))
def test_kernels_stay_within_the_bound(name: str, kernel: str) -> None:
    target = machine.load(name)
    source = _specialised(kernel, name, target.default_dtype)
    built = driver.build(source, target, numerics=FAST)
    for kind in ("normal", "adversarial"):
        arrays = data.arguments(source, 3, kind)
        found = (
            driver.npu_kernel(built).simulate(arrays)
            if target.kind == "npu"
            else driver.callable_kernel(built, 1).results(arrays)
        )
        expected = oracle_under(source, built.function, arrays)
        for result in source.results:
            report = check(found[result], expected[result])
            assert report.ok, f"{kernel} on {name}, {kind} data: {result}: {report}"


def test_a_licensed_function_takes_the_arguments_of_its_source() -> None:
    source = _specialised("conv_bn_add_relu", "avx2", "f32")
    arrays = data.arguments(source, 1)
    assert viewed(arrays, source, folded(source)).keys() == arrays.keys()


def test_what_overflows_under_the_licence_has_no_bound() -> None:
    source = parse_function(TEXT.format(body="max(add(mul(a[m, n], p[n]), p[n]), 0.0)"), "chain")
    arrays = {n: np.full(v.shape, 2.0, np.float32) for n, v in data.arguments(source, 0).items()}
    arrays["x"][:, 0], arrays["w"][:] = 0.0, 3e38
    bounded = oracle_under(source, folded(source), arrays)["y"]
    assert np.isinf(bounded.bound).all()
