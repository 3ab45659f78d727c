"""Programs on AMX tiles, executed through functions that compute what the tile instructions compute."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from opc.cpu import aot
from opc.cpu.kernel import lower
from opc.errors import MachineError
from opc.machine import load
from opc.program.text import parse_program
from tests.cpu.native import agree

# Accumulators of four tiles, ragged rows; one operand in the processor's order, one that needs a memory image.
PRODUCT = """program v1 product machine amx {
  buffer x: bf16[56,64]@gm input
  buffer w: bf16[2,32,32,2]@gm input
  buffer v: bf16[64,64]@gm input
  buffer y: f32[56,64]@gm output
  buffer z: bf16[56,64]@gm output
  buffer acc: f32[28,32]@tmm local at 0
  buffer a: bf16[28,32]@tmm local at 4
  buffer b: bf16[32,32]@tmm local at 6
  buffer d: f32[28,32]@l2 local
  buffer t: f32[2,32]@reg local
  parallel i < 2 {
    loop j < 2 {
      loop k < 2 {
        copy_in.copy a[m, c] = x[m + i*28, c + k*32] for m<28, c<32
        copy_in.copy b[c*2 + g, n] = w[j, c + k*16, n, g] for c<16, n<32, g<2
        cube.mma acc[m, n] = a[m, c], b[c, n] for m<28, n<32, c<32 {init=k, chain=64}
      }
      copy_out.copy y[m + i*28, n + j*32] = acc[m, n] for m<28, n<32
      vector.copy acc[m, n] = 0.0 for m<28, n<32
      loop k < 2 {
        copy_in.copy a[m, c] = x[m + i*28, c + k*32] for m<28, c<32
        copy_in.copy b[c, n] = v[c + k*32, n + j*32] for c<32, n<32
        cube.mma acc[m, n] = a[m, c], b[c, n] for m<28, n<32, c<32 {chain=64}
      }
      scale.drain d[m, n] = acc[m, n] for m<28, n<32
      loop p < 14 {
        vector.max t[m, n] = d[m + p*2, n], 0.0 for m<2, n<32
        copy_out.copy z[m + i*28 + p*2, n + j*32] = t[m, n] for m<2, n<32
      }
    }
  }
}
"""
BYTES = """program v1 bytes machine amx {
  buffer x: i8[16,64]@gm input
  buffer w: i8[64,16]@gm input
  buffer y: i32[16,16]@gm output
  buffer acc: i32[16,16]@tmm local at 0
  buffer a: i8[16,64]@tmm local at 1
  buffer b: i8[64,16]@tmm local at 2
  copy_in.copy a[m, k] = x[m, k] for m<16, k<64
  copy_in.copy b[k, n] = w[k, n] for k<64, n<16
  cube.mma acc[m, n] = a[m, k], b[k, n] for m<16, n<16, k<64 {init=0, chain=64}
  scale.drain y[m, n] = acc[m, n] for m<16, n<16 {scale=relu}
}
"""


def test_bf16_products() -> None:
    agree(PRODUCT, "amx", emulate=True)
    agree(PRODUCT, "amx", emulate=True, integers=True)


def test_i8_products() -> None:
    agree(BYTES, "amx", emulate=True)


def test_tile_instructions_are_emitted_in_program_order() -> None:
    amx = load("amx")
    both = replace(amx, features=(*amx.features, "amx-int8"))
    text = aot.emit_llvm(lower(None, parse_program(BYTES), both))
    found = re.findall(r"call void @llvm\.x86\.(\w+)", text)
    moves = ["ldtilecfg", "tileloadd64", "tileloadd64", "tilezero", "tdpbssd", "tilestored64", "tilerelease"]
    assert found == moves


def test_products_need_their_feature() -> None:
    with pytest.raises(MachineError, match="multiplies i8 in tiles, which needs amx-int8") as caught:
        lower(None, parse_program(BYTES), load("amx"))
    assert caught.value.code == "E0954"


def test_full_rows_are_loaded_without_a_copy() -> None:
    text = aot.emit_assembly(lower(None, parse_program(PRODUCT), load("amx")))
    assert len(re.findall(r"\ttdpbf16ps", text)) == 8
    assert text.count("\ttilestored") >= 8


# A tail of eight rows reuses the accumulator's registers with another shape.
TAIL = """program v1 tail machine amx {
  buffer x: bf16[24,32]@gm input
  buffer w: bf16[32,16]@gm input
  buffer y: f32[24,16]@gm output
  buffer acc: f32[16,16]@tmm local at 0
  buffer a: bf16[16,32]@tmm local at 1
  buffer b: bf16[32,16]@tmm local at 2
  buffer acc_1: f32[8,16]@tmm local at 0
  buffer a_1: bf16[8,32]@tmm local at 1
  buffer b_1: bf16[32,16]@tmm local at 3
  parallel n < 1 {
    loop m < 1 {
      copy_in.copy a[i, k] = x[i, k] for i<16, k<32
      copy_in.copy b[k, j] = w[k, j] for k<32, j<16
      cube.mma acc[i, j] = a[i, k], b[k, j] for i<16, j<16, k<32 {init=0, chain=32}
      copy_out.copy y[i, j] = acc[i, j] for i<16, j<16
    }
    copy_in.copy a_1[i, k] = x[i + 16, k] for i<8, k<32
    copy_in.copy b_1[k, j] = w[k, j] for k<32, j<16
    cube.mma acc_1[i, j] = a_1[i, k], b_1[k, j] for i<8, j<16, k<32 {init=0, chain=32}
    copy_out.copy y[i + 16, j] = acc_1[i, j] for i<8, j<16
  }
}
"""


def test_tails_configure_the_tiles_again() -> None:
    agree(TAIL, "amx", emulate=True)
    text = aot.emit_llvm(lower(None, parse_program(TAIL), load("amx")))
    assert text.count("call void @llvm.x86.ldtilecfg") == text.count("call void @llvm.x86.tilerelease") == 2


def test_tiles_are_configured_again_where_nothing_stays_in_them() -> None:
    start, end = "    copy_in.copy a_1[i, k]", "    copy_out.copy y[i + 16, j]"
    body = TAIL[TAIL.index(start) : TAIL.index(end)]
    # The zeros come early: that of the free register fits the first shapes, that of the shared one does not.
    early = (
        "    vector.copy b_1[k, j] = 0.0 for k<32, j<16\n    vector.copy acc_1[i, j] = 0.0 for i<8, j<16\n"
    )
    moved = TAIL.replace(body, early + body.replace("init=0, ", ""))
    assert moved != TAIL
    agree(moved, "amx", emulate=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("buffer a: bf16[28,32]@tmm local at 4", "buffer a: bf16[28,32]@tmm local at 7"),
        ("buffer a: bf16[28,32]@tmm local at 4", "buffer a: bf16[28,32]@tmm local at 3"),
        (
            "cube.mma acc[m, n] = a[m, c], b[c, n] for m<28, n<32, c<32",
            "cube.mma acc[m, n] = a[m, c], b[c, n] for m<28, n<32, c<31",
        ),
    ],
    ids=["past-the-last-tile", "one-tile-two-shapes", "half-a-group"],
)
def test_what_tiles_cannot_do_is_a_diagnostic(old: str, new: str) -> None:
    assert old in PRODUCT
    with pytest.raises(MachineError) as caught:
        lower(None, parse_program(PRODUCT.replace(old, new)), load("amx"))
    assert caught.value.code == "E0954"
