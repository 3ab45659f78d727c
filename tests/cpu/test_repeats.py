"""Instructions that occur again, of which some are loops and some straight code."""

from __future__ import annotations

import pytest

from tests.cpu.native import agree

AGAIN = """program v1 again machine avx2 {{
  buffer x: {dtype}[4,{m},{n}]@gm input
  buffer y: {dtype}[4,{m},{n}]@gm output
  buffer t: {dtype}[{m},{n}]@reg local
  loop p < 2 {{
    copy_in.copy t[i, j] = x[p, i, j] for i<{m}, j<{n}
    vector.{op} t[i, j] = {operands} for i<{m}, j<{n}
    vector.{op} t[i, j] = {operands} for i<{m}, j<{n}
    copy_out.copy y[p, i, j] = t[i, j] for i<{m}, j<{n}
  }}
  copy_in.copy t[i, j] = x[2, i, j] for i<{m}, j<{n}
  vector.{op} t[i, j] = {operands} for i<{m}, j<{n}
  copy_out.copy y[2, i, j] = t[i, j] for i<{m}, j<{n}
  copy_in.copy y[3, i, j] = x[3, i, j] for i<{m}, j<{n}
}}
"""


@pytest.mark.parametrize("machine", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", ["f64", "bf16"])
@pytest.mark.parametrize(("m", "n"), [(1, 9), (1, 520), (300, 3)])
def test_an_instruction_is_the_same_again(machine: str, dtype: str, m: int, n: int) -> None:
    agree(AGAIN.format(dtype=dtype, op="add", operands="t[i, j], 0.5", m=m, n=n), machine)


def test_a_function_of_many_instructions_is_the_same_again() -> None:
    agree(AGAIN.format(dtype="f32", op="tanh", operands="t[i, j]", m=300, n=3), "avx2")
