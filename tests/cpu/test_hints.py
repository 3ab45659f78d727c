"""Hints and prefetches: they change which instructions are emitted and nothing that is computed."""

from __future__ import annotations

import re

import pytest

from opc.cpu import aot
from opc.cpu.kernel import lower
from opc.machine import load
from opc.program.text import parse_program
from tests.cpu.native import agree
from tests.cpu.test_tiles import PRODUCT
from tests.program.test_text import HINTS

FAR = """program v1 far machine avx2 {
  buffer x: f32[4,512]@gm input
  buffer y: f32[4,16]@gm output
  buffer t: f32[16]@reg local
  loop i < 4 {
    copy_in.prefetch x[i + r, j] for r<2, j<512 {hint=l1}
    copy_in.prefetch x[i + 1, j*4] for j<128
    copy_in.copy t[j] = x[i, j] for j<16
    copy_out.copy y[i, j] = t[j] for j<16
  }
}
"""


@pytest.mark.parametrize("text", [HINTS, FAR], ids=["hints", "beyond-the-end"])
def test_results_are_those_without_hints(text: str) -> None:
    agree(text)


def test_a_prefetch_touches_each_line_once() -> None:
    # A streamed store has a second version, for results that do not start at a cache line.
    once = HINTS.replace("{hint=stream, stage=1}", "{stage=1}")
    assert once != HINTS
    text = aot.emit_llvm(lower(None, parse_program(once), load("avx2")))
    assert text.count("call void @llvm.prefetch.p0(") == 1
    assert "i32 immarg 2" in text  # l2


AHEAD = """program v1 ahead machine avx2 {
  buffer a: f32[6,96]@gm input
  buffer b: f32[96,16]@gm input
  buffer y: f32[6,16]@gm output
  buffer acc: f32[6,16]@reg local
  cube.mma acc[m, n] = a[m, k], b[k, n] for m<6, n<16, k<96 {init=0, chain=96, hint=ahead}
  copy_out.copy y[m, n] = acc[m, n] for m<6, n<16
}
"""


@pytest.mark.parametrize("name", ["avx2", "avx512", "portable"])
def test_a_product_asks_for_each_line_ahead_of_its_use(name: str) -> None:
    text = aot.emit_llvm(lower(None, parse_program(AHEAD.replace("avx2", name)), load(name)))
    loads = len(re.findall(r"load <\d+ x float>", text))
    assert text.count("call void @llvm.prefetch.p0(") == loads * load(name).vector_bytes // 64
    assert "i32 immarg 3" in text  # the nearest cache
    plain = AHEAD.replace(", hint=ahead", "")
    assert "llvm.prefetch" not in aot.emit_llvm(lower(None, parse_program(plain), load("avx2")))
    agree(AHEAD)


def test_streamed_tiles_are_loaded_past_the_near_cache() -> None:
    streamed = PRODUCT.replace("for m<28, c<32\n", "for m<28, c<32 {hint=stream}\n", 1)
    assert streamed != PRODUCT
    text = aot.emit_llvm(lower(None, parse_program(streamed), load("amx")))
    assert text.count("call void @llvm.x86.tileloaddt164(") == 2
    assert "tileloaddt1" in aot.emit_assembly(lower(None, parse_program(streamed), load("amx")))
    agree(streamed, "amx", emulate=True)
