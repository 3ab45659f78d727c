"""Rows laid side by side for tile registers: whole vectors, also beside padding."""

from __future__ import annotations

import pytest

from opc.cpu.kernel import compile_kernel
from opc.machine import load
from opc.program.text import parse_program
from tests.cpu.native import agree

PAIRS = """program v1 pairs machine {machine} {{
  buffer x: {dtype}[6,9,{width}]@gm input
  buffer y: {dtype}[6,5,{width},2]@gm output
  parallel i < 6 {{
    loop j < 5 {{
      copy_in.copy y[i, j, c, v] = x[i, j*2 + v - 1, c] for c<{width}, v<2 {{fill=0.0}}
    }}
  }}
}}"""
DENSE = """program v1 pairs machine {machine} {{
  buffer x: {dtype}[8,{width}]@gm input
  buffer y: {dtype}[4,{width},2]@gm output
  parallel one < 1 {{
    copy_in.copy y[p, c, v] = x[p*2 + v, c] for p<4, c<{width}, v<2
  }}
}}"""


@pytest.mark.parametrize("text", [PAIRS, DENSE], ids=["padded", "dense"])
@pytest.mark.parametrize("width", [16, 32, 20, 3])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("machine", ["avx2", "amx"])
def test_pairs(text: str, width: int, dtype: str, machine: str) -> None:
    agree(text.format(machine=machine, width=width, dtype=dtype), machine, integers=True)


def test_pairs_are_whole_vectors() -> None:
    text = PAIRS.format(machine="amx", width=32, dtype="bf16")
    unit = compile_kernel(None, parse_program(text), load("amx"), host_features=True).unit
    assert unit.text.count("shufflevector <16 x i16>") == 2  # a vector of 16 pairs each
