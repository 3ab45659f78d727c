"""Packed parameters in the memory of a result that is written after they were read."""

from __future__ import annotations

import numpy as np
import pytest

import kernels_dsl
import opc
from opc.program.loan import PACKED, loans
from opc.program.text import parse_program

TEXT = """program v1 f machine avx2 {
  buffer x: f32[8,8]@gm input
  buffer w: f32[8,8]@gm packed at 0
  buffer early: f32[8,8]@gm output
  buffer small: f32[8]@gm output
  buffer late: f32[8,8]@gm output
  buffer t: f32[8]@reg local at 0
  parallel i < 8 {
    copy_in.copy t[j] = w[i, j] for j<8
    copy_out.copy early[i, j] = t[j] for j<8
  }
  parallel i < 8 {
    copy_in.copy t[j] = x[i, j] for j<8
    copy_out.copy late[i, j] = t[j] for j<8
  }
  parallel i < 1 {
    copy_in.copy t[j] = x[0, j] for j<8
    copy_out.copy small[j] = t[j] for j<8
  }
}
"""


def lent(text: str) -> dict[str, tuple[str, int]]:
    return {name: (room.lender, room.start) for name, room in loans(parse_program(text)).items()}


def test_the_smallest_result_that_is_written_later_lends() -> None:
    assert lent(TEXT) == {PACKED: ("late", 0)}
    assert lent(TEXT.replace("w: f32[8,8]", "w: f32[9,8]")) == {}
    assert lent(TEXT.replace("small: f32[8]", "small: f32[64]")) == {PACKED: ("late", 0)}
    assert lent(TEXT.replace("w: f32[8,8]", "w: f32[1,8]").replace("small: f32[8]", "small: f32[16]")) == {
        PACKED: ("small", 0)
    }


WINDOW = {"N": 2, "C": 16, "CG": 16, "H": 9, "W": 7, "K": 24}
POINT = {"N": 8, "C": 64, "CG": 64, "H": 28, "W": 28, "K": 32, "R": 1, "S": 1, "pad": 0}


@pytest.mark.parametrize("sizes", [WINDOW, POINT])
def test_a_borrowed_result_has_the_same_bits(sizes: dict[str, int]) -> None:
    random, threads = np.random.default_rng(0), (1, 2)
    block, other = (
        opc.grad(
            kernels_dsl.path("conv_bn_relu_train"),
            wrt=["x", "w"],
            threads=n,
            layout="nhwc",
            donate=True,
            **sizes,
        )
        for n in threads
    )
    arrays = [block.fwd.kernel.empty(slot.name) for slot in block.fwd.kernel.signature.args]
    for array in arrays:
        array[...] = random.uniform(-1, 1, array.shape)
    code = block.bwd.kernel.native.code.executable
    assert code.run.lenders
    assert code.own_memory(1) < code.workspace_size(1) + code.packed_size
    y, saved = block.fwd(*arrays)
    d_x, d_w = block.bwd(saved, y)
    unaligned = [np.empty(a.size + 1, np.float32)[1:] for a in (d_x, d_w)]
    image = unaligned[0].reshape(d_x.transpose(0, 2, 3, 1).shape).transpose(0, 3, 1, 2)
    again = block.bwd(block.fwd(*arrays)[1], y, out=(image, unaligned[1].reshape(d_w.shape)))
    bound = block.bind(w=arrays[1]).bwd(block.fwd(*arrays)[1], y)
    for found in (again, bound, other.bwd(other.fwd(*arrays)[1], y)):
        np.testing.assert_array_equal(found[0], d_x)
        np.testing.assert_array_equal(found[1], d_w)
