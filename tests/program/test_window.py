"""The model of machines whose program order is the schedule: what a window hides and what it does not."""

from __future__ import annotations

from dataclasses import replace

from opc import machine
from opc.program.ir import Loop
from opc.program.text import parse_program
from opc.program.window import core_cycles

AMX = machine.load("amx")
# A sum of eight products, and vector work that has nothing to do with it.
APART = """program v1 apart machine amx {
  buffer x: f32[64,16]@gm input
  buffer y: f32[64,16]@gm output
  buffer a: bf16[16,32]@tmm local
  buffer b: bf16[32,16]@tmm local
  buffer c: f32[16,16]@tmm local
  buffer d: f32[16,16]@tmm local
  buffer t: f32[8,16]@reg local
  loop i < 4 {
    loop s < 8 {
      cube.mma c[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=9}
      cube.mma d[m, n] = a[m, k], b[k, n] for m<16, n<16, k<32 {chain=9}
    }
    loop r < 8 {
      copy_in.copy t[m, n] = x[r*8 + m, n] for m<8, n<16
      vector.div t[m, n] = t[m, n], 3.0 for m<8, n<16
      copy_out.copy y[r*8 + m, n] = t[m, n] for m<8, n<16
    }
  }
}
"""
BESIDE = APART.replace(
    """    }
    loop r < 8 {
""",
    "",
).replace("r*8", "s*8")


def cycles(text: str, window: int) -> float:
    return core_cycles(parse_program(text), replace(AMX, window=window))


def test_what_stands_apart_overlaps_only_in_a_large_window() -> None:
    assert cycles(BESIDE, 64) < 0.85 * cycles(APART, 64)
    assert cycles(APART, 1 << 20) < 0.85 * cycles(APART, 64)
    assert cycles(APART, 1 << 20) <= 1.1 * cycles(BESIDE, 1 << 20)


def test_time_grows_with_the_trips_of_long_loops() -> None:
    once = parse_program(BESIDE)
    (loop,) = once.body
    assert isinstance(loop, Loop)
    often = once.with_body((replace(loop, extent=4000),))
    assert 990 < core_cycles(often, AMX) / core_cycles(once, AMX) < 1010


def test_parallel_iterations_add_up() -> None:
    text = BESIDE.replace("loop i < 4", "parallel i < 4")
    assert cycles(text, 512) == 4 * cycles(BESIDE.replace("loop i < 4", "loop i < 1"), 512)
