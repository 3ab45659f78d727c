"""Maxima of several operands: NaN wins, and few tests look for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opc.cpu import aot
from opc.cpu.extremes import merge_extremes
from opc.cpu.kernel import compile_kernel, lower
from opc.machine import load
from opc.program.ir import instructions
from opc.program.text import parse_program
from tests.cpu.native import agree, run_native

CHAIN = """program v1 chain machine avx2 {
  buffer x: f32[4,16]@gm input
  buffer y: f32[16]@gm output
  buffer t: f32[4,16]@reg local
  buffer u: f32[16]@reg local
  copy_in.copy t[r, j] = x[r, j] for r<4, j<16
  vector.max u[j] = t[0, j], t[1, j] for j<16
  vector.max u[j] = u[j], t[2, j] for j<16
  vector.max u[j] = t[3, j], u[j] for j<16
  copy_out.copy y[j] = u[j] for j<16
}
"""
_LAST = "vector.max u[j] = t[3, j], u[j] for j<16"


def _vector_sources(text: str) -> list[int]:
    merged = merge_extremes(parse_program(text))
    return [len(i.src) for i, _ in instructions(merged.body) if i.opcode_class == "vector"]


def test_a_chain_becomes_one_instruction_with_half_the_tests() -> None:
    assert _vector_sources(CHAIN) == [4]
    text = aot.emit_llvm(lower(None, parse_program(CHAIN), load("avx2")))
    assert text.count("fcmp uno") == 4  # two vectors, two operands a test


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (_LAST, "vector.min u[j] = t[3, j], u[j] for j<16", [3, 2]),
        (_LAST, "vector.max u[j] = u[j], 0.0 for j<16", [3, 2]),
        (_LAST, "vector.max u[j] = u[j], u[j] for j<16", [3, 2]),
        (_LAST, _LAST + "\n  vector.add t[0, j] = t[0, j], u[j] for j<16", [4, 2]),
        (_LAST, "vector.add t[3, j] = t[3, j], u[j] for j<16\n" + _LAST, [3, 2, 2]),
    ],
    ids=["another", "literal", "itself", "result-read-again", "read-between"],
)
def test_what_is_no_chain_stays(old: str, new: str, kept: list[int]) -> None:
    assert _vector_sources(CHAIN.replace(old, new)) == kept


@pytest.mark.parametrize("dtype", ["f32", "f16", "i32"])
def test_results_are_those_of_the_chain(dtype: str) -> None:
    agree(CHAIN.replace("f32", dtype))


@pytest.mark.parametrize("row", range(4))
def test_nan_wins_wherever_it_stands(row: int) -> None:
    x = np.zeros((4, 16), np.float32)
    x[row, 3] = math.nan
    kernel = compile_kernel(None, parse_program(CHAIN), load("avx2"), host_features=True)
    found = run_native(kernel, {"x": x, "y": np.zeros(16, np.float32)})["y"]
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]
