"""Packed parameters in the memory of a result that is written after they were read."""

from __future__ import annotations

import numpy as np

import kernels_dsl
import opc
from opc.program.loan import lender
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


def test_the_smallest_result_that_is_written_later_lends() -> None:
    program = parse_program(TEXT)
    assert lender(program, 256) == "late"
    assert lender(program, 32) == "small"
    assert lender(program, 257) == ""


def test_a_borrowed_result_has_the_same_bits() -> None:
    random, sizes = np.random.default_rng(0), {"N": 2, "C": 16, "CG": 16, "H": 9, "W": 7, "K": 24}
    block = opc.grad(
        kernels_dsl.path("conv_bn_relu_train"), wrt=["x", "w"], threads=2, layout="nhwc", **sizes
    )
    arrays = [block.fwd.kernel.empty(slot.name) for slot in block.fwd.kernel.signature.args]
    for array in arrays:
        array[...] = random.uniform(-1, 1, array.shape)
    y, saved = block.fwd(*arrays)
    assert block.bwd.kernel.native.code.executable.lender == "d_w"
    d_x, d_w = block.bwd(saved, y)
    bound = block.bind(w=arrays[1]).bwd(saved, y)
    unaligned = np.empty(d_w.size + 1, np.float32)[1:].reshape(d_w.shape)
    for found in (bound, block.bwd(saved, y, out=(d_x.copy(order="K"), unaligned))):
        np.testing.assert_array_equal(found[0], d_x)
        np.testing.assert_array_equal(found[1], d_w)
