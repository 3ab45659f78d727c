"""Products whose operands share addresses: windows that slide over each other, an array times itself."""

from __future__ import annotations

import pytest

from opc.cpu.kernel import lower
from opc.machine import load
from opc.program.text import parse_program
from tests.cpu.native import agree

MACHINES = ("portable", "avx2", "avx512", "avx512bf16")
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
PAIRS = """program v1 pairs machine avx512bf16 {{
  buffer a: bf16[{m},{a}]@gm input
  buffer b: bf16[{k},{n},2]@gm input
  buffer y: f32[{m},{n}]@gm output
  buffer c: f32[{m},{n}]@reg local
  parallel p < 1 {{
    cube.mma c[m, n] = a[m, {at}], b[k, n, v] for m<{m}, n<{n}, k<{k}, v<2 {{init=0, chain={terms}, hint=ahead}}
    copy_out.copy y[m, n] = c[m, n] for m<{m}, n<{n}
  }}
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


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 32, 45])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (3, 2), (14, 9), (5, 40)])
@pytest.mark.parametrize("at", ["k*2 + v", "v*{k} + k", "k*3 + v"], ids=["pairs", "apart", "gaps"])
def test_pairs_of_terms(m: int, n: int, k: int, at: str) -> None:
    """Neighbours are multiplied at once where the processor can; terms that lie apart are not taken for neighbours."""
    text = PAIRS.format(m=m, n=n, k=k, a=3 * k, at=at.format(k=k), terms=2 * k)
    agree(text, "avx512bf16")
    agree(text, "avx512bf16", integers=True)


def test_a_pair_is_one_instruction_for_each_vector() -> None:
    text = PAIRS.format(m=14, n=32, k=64, a=128, at="k*2 + v", terms=128)
    unit = lower(None, parse_program(text), load("avx512bf16"))
    assert unit.text.count("= call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512") == 14 * 2
    assert "@llvm.fma" not in unit.text
