"""Row work beside a memory of vectors: sums of columns go over rows block by block, with parts on each core."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opc import driver, machine
from opc.build import run_passes
from opc.cpu import features
from opc.machine.model import Machine
from opc.program.ir import instructions
from opc.tensor.text import parse_function
from passes.lowering._together import together
from tests.e2e.oracle import assert_correct

ASCEND = machine.load("ascend910")


def backward(images: int, rows: int, channels: int) -> str:
    """Sums of a masked gradient, what follows from them, and a result that takes all of it."""
    x, box = f"f16[{images},{rows},{channels}]", f"n<{images}, h<{rows}, c<{channels}"
    return f"""func v1 f {{
  arg y: {x} input
  arg d: {x} input
  arg a: {x} input
  arg mean: f32[{channels}] input
  op m: {x} {{
    piece i<{images}, j<{rows}, k<{channels} at i, j, k = select(le(y[i, j, k], 0), 0.0, d[i, j, k])
  }}
  op s: f32[{channels}] sum accumulate f32 {{
    piece c<{channels} reduce n<{images}, h<{rows} at c = mul(m[n, h, c], sub(a[n, h, c], mean[c]))
  }}
  op t: f32[{channels}] sum accumulate f32 {{
    piece c<{channels} reduce n<{images}, h<{rows} at c = m[n, h, c]
  }}
  op u: f32[{channels}] {{
    piece c<{channels} at c = mul(t[c], 0.25)
  }}
  op z: {x} {{
    piece {box} at n, h, c = add(m[n, h, c], mul(u[c], sub(a[n, h, c], mean[c])))
  }}
  return s, t, z
}}
"""


def small(bytes_: int) -> Machine:
    """The machine with a smaller memory beside its vector unit."""
    space = replace(ASCEND.role("vector"), capacity=bytes_)
    return replace(ASCEND, spaces={**ASCEND.spaces, space.name: space})


@pytest.mark.parametrize("kind", ["normal", "integer"])
@pytest.mark.parametrize(
    ("images", "rows", "channels"),
    [(1, 1, 1), (3, 5, 7), (2, 1571, 24), (1, 6000, 16), (33, 190, 40), (1, 4, 2048), (7, 800, 17)],
)
def test_within_the_bound(images: int, rows: int, channels: int, kind: str) -> None:
    assert_correct(parse_function(backward(images, rows, channels)), ASCEND, 2, kind)


@pytest.mark.parametrize("kind", ["normal", "integer"])
@pytest.mark.parametrize(
    ("images", "rows", "channels"), [(1, 1, 1), (3, 50, 7), (8, 48, 70), (4, 128, 1024), (32, 4, 100)]
)
def test_columns_on_processors(images: int, rows: int, channels: int, kind: str) -> None:
    """Whole rows at a time, where there is more than one tile of columns, on two threads."""
    function = parse_function(backward(images, rows, channels).replace("f16", "f32"))
    assert_correct(function, machine.load(features.pick_machine()), 2, kind, threads=2)


@pytest.mark.parametrize(("images", "rows", "channels"), [(1, 3000, 24), (4, 300, 33), (1, 40, 1000)])
def test_in_little_memory(images: int, rows: int, channels: int) -> None:
    assert_correct(parse_function(backward(images, rows, channels)), small(12288), 3)


def test_an_op_may_read_nothing() -> None:
    f = "func v1 f {\n  op z: f16[3,70] {\n    piece i<3, j<70 at i, j = 0.5\n  }\n  return z\n}\n"
    assert_correct(parse_function(f), ASCEND)


def test_sums_take_one_phase_on_all_cores() -> None:
    built = driver.build(parse_function(backward(32, 784, 64)), ASCEND)
    first = built.tiled.run.body[0]
    copied = [i.src[0].buffer for i, _ in instructions((first,)) if i.opcode == "copy_in.copy"]
    read = [name for name in copied if name in ("a", "d", "mean", "y", "m")]
    assert first.extent == ASCEND.cores
    assert sorted(read) == ["a", "d", "mean", "y"]
    timeline = driver.npu_kernel(built).timeline
    elements = 784 * 64  # of each core
    # 12 cycles per 64 elements in the sums and 14 in the result are what the vector unit needs.
    assert timeline.cycles < 1.2 * 26 * elements / 64


def test_a_tensor_joins_for_all_that_sum_it() -> None:
    """Beside one sum alone, where the vector unit has more to do than copies, making it anew gains nothing."""
    f = parse_function(backward(32, 3136, 256))
    lowered, _ = run_passes(f, driver.pipeline("tensor"), ASCEND)
    groups = {op.name: op.group for op in lowered.ops}
    assert groups["m"] == groups["s.part"] == groups["t.part"] != groups["z"]


def test_rows_of_other_shapes_do_not_go_together() -> None:
    f = parse_function(backward(2, 30, 16))
    m, s, t, u, z = f.ops  # m is over i, j and k
    shared = {"c"}
    assert together((s,), shared) is not None
    assert together((u, z), shared) is None  # nothing is reduced
    assert together((m, t), shared) is None  # the row dims of m include its channels
