"""Copies that change which dimension is contiguous, with remainders, borders and conversions."""

from __future__ import annotations

import pytest

from opc.cpu import aot
from opc.cpu.kernel import lower
from opc.machine import load
from opc.program.text import parse_program
from tests.cpu.native import agree

TURN = """program v1 turn machine avx2 {{
  buffer x: {a}[{c},{m},{n}]@gm input
  buffer y: {b}[{n},{c},{m}]@gm output
  buffer z: {b}[2,{wide},{m}]@gm output
  buffer s: {b}[{wide},{m}]@l2 local
  copy_in.copy y[n, c, m] = x[c, m, n] for c<{c}, m<{m}, n<{n}
  parallel p < 2 {{
    copy_in.copy s[n, m] = x[0, m, n - 2 - p] for n<{wide}, m<{m} {{fill=3}}
    copy_out.copy z[p, n, m] = s[n, m] for n<{wide}, m<{m}
  }}
}}
"""
IN_PLACE = """program v1 place machine avx2 {
  buffer x: f32[300,300]@gm inout
  loop i < 2 {
    vector.neg x[m, n] = x[n, m] for m<300, n<300
  }
}
"""


@pytest.mark.parametrize("machine", ["avx2", "avx512", "portable"])
@pytest.mark.parametrize(
    ("a", "b"), [("f32", "f32"), ("bf16", "bf16"), ("bf16", "f32"), ("f64", "f64"), ("f32", "i8")]
)
@pytest.mark.parametrize(("c", "m", "n"), [(1, 8, 8), (2, 17, 23), (3, 9, 8), (2, 3, 50)])
def test_turns(a: str, b: str, c: int, m: int, n: int, machine: str) -> None:
    agree(TURN.format(a=a, b=b, c=c, m=m, n=n, wide=n + 5), machine)


def test_everything_is_read_before_anything_is_written() -> None:
    agree(IN_PLACE)
    assert aot.emit_object(lower(None, parse_program(IN_PLACE), load("avx2")))
