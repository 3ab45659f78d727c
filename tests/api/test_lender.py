"""Packed parameters in the memory of a result that is written after they were read."""

from __future__ import annotations

import numpy as np
import pytest

import kernels_dsl
import opc
from opc.program.loan import lender, lenders
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
    assert lender(program, "packed", 256) == "late"
    assert lender(program, "packed", 32) == "small"
    assert lender(program, "packed", 257) == ""


def test_no_result_lends_twice() -> None:
    text = TEXT.replace("  buffer t:", "  buffer s: f32[8,8]@gm workspace at 0\n  buffer t:").replace(
        "early", "s"
    )
    program = parse_program(text.replace("  buffer s: f32[8,8]@gm output\n", ""))
    assert lenders(program, 32, 256) == ("small", "late")
    assert lenders(program, 256, 256) == ("late", "")
    assert lenders(program, 200, 256) == ("", "late")


WINDOW = {"N": 2, "C": 16, "CG": 16, "H": 9, "W": 7, "K": 24}
POINT = {"N": 8, "C": 64, "CG": 64, "H": 28, "W": 28, "K": 32, "R": 1, "S": 1, "pad": 0}


@pytest.mark.parametrize(("sizes", "lenders"), [(WINDOW, ("d_w", "")), (POINT, ("", "d_x"))])
def test_a_borrowed_result_has_the_same_bits(sizes: dict[str, int], lenders: tuple[str, str]) -> None:
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
    assert (code.packed_lender, code.workspace_lender) == lenders
    y, saved = block.fwd(*arrays)
    d_x, d_w = block.bwd(saved, y)
    unaligned = [np.empty(a.size + 1, np.float32)[1:] for a in (d_x, d_w)]
    image = unaligned[0].reshape(d_x.transpose(0, 2, 3, 1).shape).transpose(0, 3, 1, 2)
    again = block.bwd(block.fwd(*arrays)[1], y, out=(image, unaligned[1].reshape(d_w.shape)))
    bound = block.bind(w=arrays[1]).bwd(block.fwd(*arrays)[1], y)
    for found in (again, bound, other.bwd(other.fwd(*arrays)[1], y)):
        np.testing.assert_array_equal(found[0], d_x)
        np.testing.assert_array_equal(found[1], d_w)
