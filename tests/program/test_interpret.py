"""The program interpreter against NumPy, element type by element type and opcode by opcode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from opc.dtypes import DType
from opc.errors import IRError
from opc.program.evaluate import compute_type, convert
from opc.program.interpret import run, trace
from opc.program.ir import Loop, Program
from opc.program.text import parse_program
from tests.strategies.program import arguments, programs

SAMPLES = Path(__file__).parent.parent / "samples"
NAN, INF = float("nan"), float("inf")


def execute(text: str, **arrays: Any) -> dict[str, Any]:
    """Run a program on ``arrays``; outputs start as zeros."""
    program = parse_program(text)
    data = {b.name: np.zeros(b.shape, b.dtype.numpy) for b in program.buffers if b.kind == "output"}
    data |= {n: np.asarray(a, program.buffer(n).dtype.numpy) for n, a in arrays.items()}
    run(program, data, check=True)
    return data


def vector(instr: str, dtype: str = "f32", out: str = "f32") -> str:
    """A program that applies ``instr`` to t (and u) of 6 elements."""
    return f"""program v1 one machine avx2 {{
  buffer x: {dtype}[6]@gm input
  buffer z: {dtype}[6]@gm input
  buffer y: {out}[6]@gm output
  buffer t: {dtype}[6]@reg local
  buffer u: {dtype}[6]@reg local
  buffer r: {out}[6]@reg local
  copy_in.copy t[j] = x[j] for j<6
  copy_in.copy u[j] = z[j] for j<6
  {instr} for j<6
  copy_out.copy y[j] = r[j] for j<6
}}
"""


@pytest.mark.parametrize("name", ["ascend910", "avx2"])
def test_sample_convolution(name: str) -> None:
    program = parse_program((SAMPLES / f"conv_bn_relu.{name}.program").read_text(encoding="utf-8"))
    random = np.random.default_rng(0)
    dtype = program.buffer("x").dtype
    x = random.integers(-3, 4, (1, 8, 8, 32)).astype(dtype.numpy)
    w = random.integers(-1, 2, (9, 32, 32)).astype(dtype.numpy)
    mul, shift = (random.integers(-2, 3, 32).astype(np.float32) for _ in range(2))
    packed = w if name == "ascend910" else w.reshape(3, 3, 32, 2, 16).transpose(3, 0, 1, 2, 4).copy()
    y = np.zeros_like(x)
    run(program, {"x": x, "w": packed, "mul": mul, "shift": shift, "y": y}, check=True)
    halo = np.pad(x[0].astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    wide = w.astype(np.float64)
    total = sum(halo[r : r + 8, s : s + 8] @ wide[r * 3 + s] for r in range(3) for s in range(3))
    np.testing.assert_array_equal(y[0], np.maximum(total * mul + shift, 0).astype(dtype.numpy))


@pytest.mark.parametrize(
    ("values", "to", "expected"),
    [
        ([0.5, 1.5, 2.5, -0.5, 200.0, -200.0, NAN], DType.I8, [0, 2, 2, 0, 127, -128, 0]),
        ([0.9, -0.9, 3e9, -3e9, NAN, INF], DType.I32, [0, 0, 2**31 - 1, -(2**31), 0, 2**31 - 1]),
        ([1 + 2.0**-11, 65520.0, 65519.0], DType.F16, [1.0, INF, 65504.0]),
        ([1 + 2.0**-9, 1 + 3 * 2.0**-9, NAN], DType.BF16, [1.0, 1 + 2.0**-7, NAN]),
    ],
)
def test_convert_floats(values: list[float], to: DType, expected: list[float]) -> None:
    with np.errstate(all="ignore"):
        found = convert(np.array(values, np.float32), to)
    assert found.dtype == to.numpy
    np.testing.assert_array_equal(found.astype(np.float64), expected)


def test_convert_integers_saturates() -> None:
    np.testing.assert_array_equal(convert(np.array([300, -300, 5], np.int32), DType.I8), [127, -128, 5])


def test_compute_type() -> None:
    assert compute_type([DType.F16, DType.BF16], [], DType.F16) is DType.F32
    assert compute_type([DType.I8], [2], DType.I8) is DType.I32
    assert compute_type([DType.I8], [2.0], DType.I8) is DType.F32
    assert compute_type([], [1.0], DType.F16) is DType.F32


def test_integers_wrap() -> None:
    y = execute(vector("vector.mul r[j] = t[j], u[j]", "i32", "i32"), x=[2**30] * 6, z=[4, 3, 2, 1, 0, -4])[
        "y"
    ]
    np.testing.assert_array_equal(y, [0, -(2**30), -(2**31), 2**30, 0, 0])


def test_fma_rounds_once() -> None:
    eps = 2.0**-23
    y = execute(vector("vector.fma r[j] = t[j], t[j], u[j]"), x=[1 + eps] * 6, z=[-1.0] * 6)["y"]
    assert (y == np.float32(2 * eps + eps * eps)).all()


def test_select_and_compare() -> None:
    x, z = [1, 2, 3, NAN, 5, 6], [3, 2, 1, 0, NAN, 7]
    y = execute(vector("vector.lt r[j] = t[j], u[j]"), x=x, z=z)["y"]
    np.testing.assert_array_equal(y, [1, 0, 0, 0, 0, 1])
    y = execute(vector("vector.select r[j] = t[j], u[j], 9.0"), x=[0, 1, -1, NAN, 0, 2], z=z)["y"]
    np.testing.assert_array_equal(y, [9, 2, 1, 0, 9, 7])


def test_relu_keeps_nan() -> None:
    text = vector("scale.drain r[j] = t[j]").replace(
        "for j<6\n  copy_out", "for j<6 {scale=relu}\n  copy_out"
    )
    y = execute(text, x=[-1, 0, 1, NAN, INF, -INF], z=[0] * 6)["y"]
    np.testing.assert_array_equal(y, [0, 0, 1, NAN, INF, 0])


def reduction(op: str, init: str, extra: str = "", pair: bool = False) -> str:
    second, index = ", w[q]" if pair else "", ", n[q, j]" if "arg" in op else ""
    return f"""program v1 reduce machine avx2 {{
  buffer x: f32[3,2,4]@gm input
  buffer y: f32[2]@gm output
  buffer z: {"i32" if "arg" in op else "f32"}[2]@gm output
  buffer t: f32[2,4]@reg local
  buffer n: i32[2,4]@reg local
  buffer s: f32[2]@reg local
  buffer w: {"i32" if "arg" in op else "f32"}[2]@reg local
  vector.copy w[q] = 0 for q<2
  loop i < 3 {{
    copy_in.copy t[q, j] = x[i, q, j] for q<2, j<4
    vector.iota n[q, j] = for q<2, j<4 {{form=i*4 + j}}
    vector.reduce_{op} s[q]{second} = t[q, j]{index} for q<2, j<4 {{init={init}{extra}}}
  }}
  copy_out.copy y[q] = s[q] for q<2
  copy_out.copy z[q] = w[q] for q<2
}}
"""


def test_plain_reductions() -> None:
    x = np.random.default_rng(1).integers(-9, 9, (3, 2, 4)).astype(np.float32)
    for op, function in (("sum", np.sum), ("max", np.max), ("min", np.min)):
        chain = ", chain=12" if op == "sum" else ""
        found = execute(reduction(op, "i", chain), x=x)["y"]
        np.testing.assert_array_equal(found, function(x, axis=(0, 2)))
    x[1, 0, 2] = NAN
    assert np.isnan(execute(reduction("max", "i"), x=x)["y"][0])


@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_arg_reductions(op: str) -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        x = random.integers(0, 4, (3, 2, 4)).astype(np.float32)
        if random.random() < 0.5:
            x.reshape(-1)[random.integers(0, 24, 2)] = NAN
        found = execute(reduction(op, "i", pair=True), x=x)
        flat = x.transpose(1, 0, 2).reshape(2, 12)
        expected = flat.argmax(axis=1) if op == "argmax" else flat.argmin(axis=1)
        np.testing.assert_array_equal(found["z"], expected)
        np.testing.assert_array_equal(found["y"], flat[[0, 1], expected])


def test_moments_survive_a_large_mean() -> None:
    x = (1e4 + np.random.default_rng(3).standard_normal((3, 2, 4))).astype(np.float32)
    found = execute(reduction("moments", "i", ", form=i*4, chain=12", pair=True), x=x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found["y"], wide.mean(axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(found["z"], wide.var(axis=(0, 2)) * 12, rtol=1e-2)


def test_integer_products_wrap_like_the_accumulator() -> None:
    text = """program v1 product machine avx2 {
  buffer x: i8[4,3]@gm input
  buffer w: i8[3,5]@gm input
  buffer y: i32[4,5]@gm output
  buffer c: i32[4,5]@reg local
  cube.mma c[m, n] = x[m, k], w[k, n] for m<4, n<5, k<3 {init=0, chain=3}
  copy_out.copy y[m, n] = c[m, n] for m<4, n<5
}
"""
    x, w = (np.random.default_rng(s).integers(-128, 128, shape) for s, shape in ((0, (4, 3)), (1, (3, 5))))
    np.testing.assert_array_equal(execute(text, x=x, w=w)["y"], x @ w)


def test_bfloat16_operands() -> None:
    text = vector("vector.add r[j] = t[j], u[j]", "bf16", "bf16")
    y = execute(text, x=[1.0] * 6, z=[2.0**-8] * 6)["y"]
    assert y.dtype == ml_dtypes.bfloat16
    assert (y == 1.0).all()


def test_gather_with_fill_and_transpose() -> None:
    text = """program v1 gather machine avx2 {
  buffer x: f32[3,4]@gm input
  buffer y: f32[5,6]@gm output
  buffer t: f32[5,6]@reg local
  copy_in.copy t[a, b] = x[b - 1, -a + 3] for a<5, b<6 {fill=7.0}
  copy_out.copy y[a, b] = t[a, b] for a<5, b<6
}
"""
    x = np.arange(12).reshape(3, 4)
    expected = np.full((5, 6), 7.0)
    for a in range(4):
        expected[a, 1:4] = x[:, 3 - a]
    np.testing.assert_array_equal(execute(text, x=x)["y"], expected)


def test_reads_of_nothing_are_found() -> None:
    text = """program v1 hole machine avx2 {
  buffer x: f32[8]@gm input
  buffer y: f32[8]@gm output
  buffer t: f32[8]@l2 local
  buffer r: f32[8]@reg local
  copy_in.copy t[j] = x[j] for j<7
  copy_in.copy r[j] = t[j] for j<8
  copy_out.copy y[j] = r[j] for j<8
}
"""
    with pytest.raises(IRError) as caught:
        execute(text, x=np.zeros(8))
    assert caught.value.code == "E0404"
    clobbered = text.replace("j<7", "j<8").replace(
        "t: f32[8]@l2 local", "t: f32[8]@l2 local at 0\n  buffer v: f32[1]@l2 local at 0"
    )
    clobbered = clobbered.replace(
        "  copy_in.copy r[", "  copy_in.copy v[j] = x[j] for j<1\n  copy_in.copy r["
    )
    with pytest.raises(IRError) as caught:
        execute(clobbered, x=np.zeros(8))
    assert caught.value.code == "E0404"


def test_arrays_must_fit() -> None:
    program = parse_program(vector("vector.neg r[j] = t[j]"))
    with pytest.raises(IRError, match="needs an array"):
        run(program, {})
    bad = {n: np.zeros(5, np.float32) for n in "xzy"}
    with pytest.raises(IRError, match="the array is"):
        run(program, bad)


@settings(max_examples=40, deadline=None)
@given(programs())
def test_parallel_iterations_commute(program: Program) -> None:
    left, right = arguments(program), arguments(program)
    run(program, left, check=True)
    run(program, right, order=1)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def count(body: tuple[Any, ...]) -> int:
    return sum(s.extent * count(s.body) if isinstance(s, Loop) else 1 for s in body)


@settings(max_examples=20, deadline=None)
@given(programs())
def test_trace_has_every_instance(program: Program) -> None:
    instances = list(trace(program))
    assert len(instances) == count(program.body)
    assert {i.phase for i in instances} == set(range(len(program.body)))
