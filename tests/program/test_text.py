"""Program text: canonical round trip, and a coded error for every kind of damage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opc import machine as machines
from opc.errors import IRError, OpcError
from opc.program.ir import Imm, Program
from opc.program.text import MAX_DEPTH, parse_module, parse_program, print_module, print_program
from opc.program.verify import problems
from tests.strategies.program import programs

SAMPLE = (Path(__file__).parent.parent / "samples" / "conv_bn_relu.ascend910.program").read_text(
    encoding="utf-8"
)
SMALL = """program v1 small machine avx2 {
  buffer x: f32[8]@gm input
  buffer y: f32[8]@gm output
  buffer t: f32[8]@reg local
  copy_in.copy t[j] = x[j] for j<8
  vector.add t[j] = t[j], 1.5 for j<8
  copy_out.copy y[j] = t[j] for j<8
}
"""
DAMAGE = [
    ("program v1", "module v1", "expected 'program v1 NAME"),
    ("machine avx2 {", "machine avx2", "expected 'program v1 NAME"),
    ("f32[8]@gm input", "f31[8]@gm input", "bad buffer"),
    ("f32[8]@gm input", "f32[n]@gm input", "bad buffer"),
    ("f32[8]@gm input", "f32[8]@gm entrance", "bad buffer"),
    ("@reg local", "@reg local at 0,,1", "bad buffer"),
    ("vector.add", "vector.plus", "unknown opcode 'vector.plus'"),
    ("x[j]", "x[j*j]", "not an affine form"),
    ("x[j]", "x[j +]", "not an affine form"),
    ("x[j]", "x[j", "bad operand"),
    ("t[j], 1.5", "t[j] 1.5", "expected ','"),
    ("for j<8\n  vector", "for j\n  vector", "bad dimension"),
    ("1.5 for j<8", "1.5 for j<8 {chain=2", "attributes are not closed"),
    ("1.5 for j<8", "1.5 for j<8 {colour=2}", "unknown attribute 'colour'"),
    ("1.5 for j<8", "1.5 for j<8 {chain}", "bad attribute"),
    ("1.5 for j<8", "1.5 for j<8 {chain=two}", "invalid literal"),
    ("vector.add t[j] = t[j], 1.5 for j<8", "sync.set_flag V id 0", "sync wants"),
    ("vector.add t[j] = t[j], 1.5 for j<8", "vector.add t[j]", "unexpected"),
    ("}\n", "", "not closed"),
    ("}\n", "}\nmore\n", "expected 'program v1 NAME"),
]


HINTS = """program v1 hints machine avx2 {
  buffer x: f32[64]@gm input
  buffer y: f32[64]@gm output
  buffer t: f32[8]@reg local
  loop i < 8 {
    copy_in.prefetch x[i*8 + j + 8] for j<8 {hint=l2, line=1}
    copy_in.copy t[j] = x[i*8 + j] for j<8 {hint=stream}
    copy_out.copy y[i*8 + j] = t[j] for j<8 {hint=stream, stage=1}
  }
}
"""


def test_hints_and_prefetches_read_back() -> None:
    program = parse_program(HINTS)
    assert print_program(program) == HINTS
    assert problems(program, machines.load("avx2")) == []


@pytest.mark.parametrize(("old", "new", "message"), DAMAGE)
def test_damage_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    with pytest.raises(IRError) as caught:
        parse_module(text, "small.program")
    assert caught.value.code == "E0401"
    assert message in caught.value.diagnostics[0].message
    span = caught.value.span
    assert span is not None
    assert span.file == "small.program"
    assert 0 <= span.line <= text.count("\n") + 1


def test_other_versions_are_refused() -> None:
    with pytest.raises(IRError, match="E0402"):
        parse_program(SMALL.replace("v1", "v2"))


def test_depth_is_capped() -> None:
    nest = "".join(f"loop i{n} < 2 {{\n" for n in range(200_000))
    with pytest.raises(IRError, match=f"more than {MAX_DEPTH} deep"):
        parse_program(f"program v1 deep machine avx2 {{\n{nest}")


def test_long_lines_are_read_and_errors_stay_short() -> None:
    form = "+".join(["j"] * 20_000)
    program = parse_program(SMALL.replace("x[j]", f"x[{form}]", 1))
    assert "x[j*20000]" in print_program(program)
    with pytest.raises(IRError) as caught:
        parse_program(SMALL.replace("x[j]", f"x[{form}*]", 1))
    assert len(caught.value.diagnostics[0].message) <= 200


@pytest.mark.parametrize("value", ["0", "-3", "1.5", "-0.0", "1e-07", "1e+300", "inf", "-inf", "nan"])
def test_literals_read_back(value: str) -> None:
    text = SMALL.replace("1.5", value)
    program = parse_program(text)
    assert print_program(program) == text
    literal = program.body[1].src[1]  # type: ignore[union-attr]
    assert isinstance(literal, Imm)
    assert math.isnan(literal.value) == (value == "nan")
    assert isinstance(literal.value, int) == (value in ("0", "-3"))


def test_a_module_is_two_programs() -> None:
    prepare = SMALL.replace("output", "packed").replace("input", "param")
    module = parse_module(prepare + SMALL)
    assert print_module(module) == prepare + SMALL
    assert print_module(parse_module(SMALL)) == SMALL
    with pytest.raises(IRError, match="end of the module"):
        parse_module(SMALL * 3)


@settings(max_examples=60, deadline=None)
@given(programs())
def test_random_programs_read_back(program: Program) -> None:
    assert parse_program(print_program(program)) == program


PIECES = [
    "{",
    "}",
    "[",
    "<",
    "=",
    "for",
    "-1",
    "inf",
    "i",
    "*",
    "@",
    "slots 0",
    "at 7",
    "\n",
    "loop i < 0 {",
    "μ",
    "9" * 5000,
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([SAMPLE, SMALL]), st.data())
@example(SMALL.replace("f32[8]@gm input", f"f32[{'9' * 19}]@gm input"), None)
@example(SMALL.replace("for j<8", f"for j<{'9' * 5000}", 1), None)
def test_damaged_text_never_crashes(text: str, data: st.DataObject | None) -> None:
    for _ in range(data.draw(st.integers(1, 3)) if data else 0):
        assert data is not None
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.sampled_from(PIECES)) + text[at + cut :]
    module, code = None, ""
    try:
        module = parse_module(text)
    except OpcError as error:
        code = error.code
    if module is None:
        assert code in ("E0401", "E0402")
        return
    again = print_module(module)
    assert print_module(parse_module(again)) == again
    for program in module.programs:
        if program.machine in machines.names():
            problems(program, machines.load(program.machine), "expanded")
