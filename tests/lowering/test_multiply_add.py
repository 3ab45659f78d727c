"""A product that enters a sum and nothing else is one instruction where the processor has one."""

from __future__ import annotations

import numpy as np
import pytest

import opc
from opc import driver, machine
from opc.cpu import features
from opc.dtypes import DType
from opc.program.evaluate import elementwise
from opc.program.ir import instructions

TEXT = """
kernel affine(a: T[M, N], b: T[M, N], c: T[M, N], d: T[N]) -> (y: T[M, N]) {
  "EXPRESSION"
  example M = 3, N = 100
  y[i, j] = EXPRESSION
}
"""


def operations(expression: str, target: str, dtype: str = "f32") -> list[str]:
    """Vector instructions that compute."""
    m = machine.load(target)
    function = driver.specialise(TEXT.replace("EXPRESSION", expression), "affine.k", m, dtype=dtype)
    built = driver.build(function, m)
    found = [i.op for i, _ in instructions(built.module.run.body) if i.opcode_class == "vector"]
    return [op for op in found if op != "copy"]


@pytest.mark.parametrize(
    "expression",
    [
        "a[i, j] * b[i, j] + c[i, j]",
        "c[i, j] + a[i, j] * b[i, j]",
        "d[j] * a[i, j] + d[j]",
        "a[i, j] * 0.5 + 2",
    ],
)
def test_a_product_and_its_sum_are_one_instruction(expression: str) -> None:
    assert set(operations(expression, "avx2")) == {"fma"}
    assert set(operations(expression, "avx2", "bf16")) == {"fma"}
    assert set(operations(expression, "avx2", "f64")) == {"fma"}
    assert set(operations(expression, "portable")) == {"mul", "add"}
    assert set(operations(expression, "ascend910", "f16")) == {"mul", "add"}


@pytest.mark.parametrize(
    "expression",
    [
        "(a[i, j] * b[i, j] + c[i, j]) / (a[i, j] * b[i, j])",  # used again
        "a[i, j] * b[i, j] + a[i, j] * b[i, j]",
        "a[i, j] + d[0] * d[1]",  # over fewer axes
        "a[i, j] * b[i, j] + f64(c[i, j])",  # of a type of its own
    ],
)
def test_other_products_stay_instructions(expression: str) -> None:
    expression = f"T({expression})" if "f64" in expression else expression
    assert set(operations(expression, "avx2")) <= {"mul", "add", "div"}


def test_integers_stay_two_instructions() -> None:
    assert set(operations("a[i, j] * b[i, j] + c[i, j]", "avx2", "i32")) == {"mul", "add"}


@pytest.mark.parametrize(
    "expression", ["a[i, j] * b[i, j] + a[i, j]", "a[i, j] * b[i, j] + c[i, j] * c[i, j] + d[j]"]
)
@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_operands_that_come_again(expression: str, dtype: str) -> None:
    kernel = opc.compile(TEXT.replace("EXPRESSION", expression), dtype=dtype, M=3, N=100)
    kind = DType(dtype).numpy
    a, b, c = (np.random.default_rng(n).integers(-99, 99, (3, 100)).astype(kind) for n in range(3))
    want = a * b + a if "c[" not in expression else a * b + c * c + c[0]
    assert np.array_equal(np.asarray(kernel(a, b, c, c[0])), want)


# 2^24 + 1 and 2^53 + 1 lie between two neighbours: what is added, however small, decides. Then a product that overflows
# and one that vanishes, signed zeros, and what is not finite.
CASES = {
    DType.F32: [(97, 172961, 2.0**-60), (97, 172961, -(2.0**-60)), (1e30, 1e30, -np.inf), (1e30, 1e9, -3e38)],
    DType.F64: [(3, 3002399751580331, 2.0**-60), (3, 3002399751580331, -(2.0**-60)), (1e200, 1e200, -np.inf),
                (1e200, 2e108, -1e308)],
}  # fmt: skip
COMMON = [
    (-0.0, 1, 0), (-0.0, 1, -0.0), (3, 5, -15), (0.1, 0.1, -0.01), (np.inf, 0, 1), (np.inf, 1, -np.inf), (np.nan, 1, 1)
]  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_the_interpreter_rounds_once_as_the_machine_does(kind: DType) -> None:
    if features.missing(machine.load("avx2")):
        pytest.skip("no multiply-add on this host")
    draw = np.random.default_rng(0).standard_normal((300, 3))
    rows = np.concatenate([np.array([*CASES[kind], *COMMON]), draw]).astype(kind.numpy)
    a, b, c = rows.T.copy()[:, None]
    with np.errstate(all="ignore"):
        found = elementwise("fma", [a, b, c], kind)
    kernel = opc.compile(
        TEXT.replace("EXPRESSION", "a[i, j] * b[i, j] + c[i, j]"), dtype=kind.value, M=1, N=len(rows)
    )
    np.testing.assert_array_equal(found, np.asarray(kernel(a, b, c, c[0])))
    assert np.array_equal(np.signbit(found)[:, :6], np.signbit(np.asarray(kernel(a, b, c, c[0])))[:, :6])
    assert found[0, 0] - found[0, 1] == 2
