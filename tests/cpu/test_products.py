"""Products whose operands share addresses: windows that slide over each other, an array times itself."""

from __future__ import annotations

import pytest

from tests.cpu.native import agree

MACHINES = ("portable", "avx2", "avx512")
SLIDING = """program v1 sliding machine avx2 {{
  buffer a: {dtype}[{size}]@gm input
  buffer b: {dtype}[{taps}]@gm input
  buffer y: f32[{m}]@gm output
  buffer c: {sum}[{m}]@l2 local
  cube.mma c[m] = a[m*{step} + r], b[r] for m<{m}, r<{taps} {{init=0, chain=9999}}
  copy_out.copy y[m] = c[m] for m<{m}
}}
"""
SQUARE = """program v1 square machine avx2 {{
  buffer a: {dtype}[7,7]@gm input
  buffer y: f32[7,7]@gm output
  buffer c: {sum}[7,7]@l2 local
  cube.mma c[m, n] = a[{left}], a[{right}] for m<7, n<7, k<7 {{init=0, chain=9999}}
  copy_out.copy y[m, n] = c[m, n] for m<7, n<7
}}
"""
SUMS = {"f64": "f64", "f32": "f32", "bf16": "f32", "i8": "i32"}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", SUMS)
@pytest.mark.parametrize("step", [1, 2])
def test_the_last_part_of_a_row_is_not_taken_for_a_whole_vector(machine: str, dtype: str, step: int) -> None:
    for m, taps in ((5, 3), (5, 6), (10, 9), (17, 20), (19, 8)):
        size = (m - 1) * step + taps
        agree(SLIDING.format(dtype=dtype, sum=SUMS[dtype], m=m, taps=taps, step=step, size=size), machine)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", SUMS)
@pytest.mark.parametrize(
    ("left", "right"), [("m, k", "n, k"), ("k, m", "k, n"), ("m, k", "k, n"), ("k, m", "n, k")]
)
def test_a_broadcast_is_not_taken_for_a_row(machine: str, dtype: str, left: str, right: str) -> None:
    agree(SQUARE.format(dtype=dtype, sum=SUMS[dtype], left=left, right=right), machine)
