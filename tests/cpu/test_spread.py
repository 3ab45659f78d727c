"""Short rows that a copy widens: several at once inside, one by one at the border."""

from __future__ import annotations

import pytest

from tests.cpu.native import agree

PIXELS = """program v1 widen machine MACHINE {
  buffer x: DTYPE[7,W,3]@gm input
  buffer y: DTYPE[9,P,4]@gm output
  buffer s: DTYPE[9,P,4]@l2 local
  parallel one < 1 {
    copy_in.copy s[h, v, c] = x[h - 1, v - 2, c] for h<9, v<P, c<4 {fill=0.0}
    copy_out.copy y[h, v, c] = s[h, v, c] for h<9, v<P, c<4
  }
}
"""


@pytest.mark.parametrize("machine", ["avx2", "avx512", "portable"])
@pytest.mark.parametrize("dtype", ["bf16", "f32", "i8"])
@pytest.mark.parametrize("width", [5, 24, 37])
def test_widened_pixels(machine: str, dtype: str, width: int) -> None:
    text = PIXELS.replace("MACHINE", machine).replace("DTYPE", dtype)
    text = text.replace("W", str(width)).replace("P", str(width + 3))
    agree(text if dtype != "i8" else text.replace("fill=0.0", "fill=0"), machine)
