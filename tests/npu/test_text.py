"""Listing text: exact round trip, and a code and caret for whatever does not parse."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc import npu
from opc.errors import ListingError, OpcError
from tests.npu.samples import PIPELINED, barriers, chained, machine, place, sample

HEADER = "listing v1 t machine ascend910\ntensor x: f16[64] input\n"
LINE = "MTE2 copy_gm_to_ub f16@ub[0 | j:2] = f16@gm:x[0 | j:2] for j<64"


def listing(line: str) -> str:
    return f"{HEADER}core c < 1 {{\n  {line}\n}}\n"


@pytest.mark.parametrize("sync", [barriers, lambda p: chained(p, machine())])
def test_emitted_text_reads_back(sync) -> None:
    found = npu.emit(sync(place(sample(), machine())), machine())
    text = npu.print_listing(found)
    assert npu.parse_listing(text) == found
    assert npu.print_listing(npu.parse_listing(text)) == text


def test_hand_written_text_reads_back() -> None:
    assert npu.print_listing(npu.parse_listing(PIPELINED)) == PIPELINED


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        LINE + " {inside=c + j - 1 < 64 & j < 3, fill=-inf, line=7}",
        "V vcmoments f32@ub[0], f32@ub[4] = f32@ub[32 | j:4] for j<8 {init=c, form=c*8, line=1}",
        "V vdup f32@ub[0 | j:4] = nan for j<8",
        "MTE1 load3d f16@l0a[0 | j:2] = f16@l1[0 | j:2] for j<8 {window=2x28x4, line=1}",
        "V vci i32@ub[0 | j:4] = for j<8 {form=c*8 + j}",
        "V vsel f32@ub[0 | j:4] = i8@ub[64 | j:1], f32@ub[0 | j:4], -1.5e-07 for j<8",
        "V drain f16@ub[(0, 512)[c + 1 mod 2] + c*32 - 4 | m:32, n:2] = f32@l0c[0 | m:64, n:4]"
        " for m<16, n<16 {scale=relu+convert}",
        "set_flag MTE2, V, c*2 + 1 mod 4 {line=3}",
        "wait_flag MTE2, V, 3",
        "pipe_barrier ALL {line=2}",
    ],
)
def test_instruction_reads_back(line: str) -> None:
    text = listing(line)
    assert npu.print_listing(npu.parse_listing(text)) == text


@pytest.mark.parametrize(
    ("line", "message", "caret"),
    [
        ("MTE2 jump f16@ub[0] = 1", "unknown instruction 'MTE2 jump'", "jump"),
        (LINE.replace("j:2]", "k:2]"), "bad stride 'k:2'", "k:2"),
        (LINE.replace("f16@ub[0 ", "f16@ub[0*0*i*i "), "not affine", "0*0*i*i"),
        (LINE.replace("f16@ub", "f17@ub"), "unknown dtype 'f17'", "f17"),
        (LINE.replace("j<64", "j<0"), "bad dimension 'j<0'", "j<0"),
        (LINE + " {lines=3}", "bad attribute 'lines=3'", "lines=3"),
        (LINE + " {inside=j < k}", "bad bound 'j < k'", "j < k"),
        ("V vadd f16@ub[0] = f16@ub[0]", "'vadd' has 1 destination(s) and 2 source(s)", "vadd"),
        ("V vdup 1.0 = 2.0", "a literal cannot be written", "1.0"),
        ("V vdup f16@ub[(0, 2)[c mod 3]] = 2.0", "2 addresses are selected mod 3", "0, 2"),
        ("V vadd f16@ub[0 = 1, 2", "bad operand", "f16@ub[0"),
        ("hello", "not an instruction", "hello"),
        ("core d < 2 {", "'core' cannot stand here", "core"),
        ("loop c < 2 {", "'c' is already a loop variable here", "c"),
    ],
)
def test_bad_instruction_is_marked(line: str, message: str, caret: str) -> None:
    text = listing(line)
    with pytest.raises(ListingError) as caught:
        npu.parse_listing(text, "t.npu")
    error = caught.value
    assert error.code == "E0801"
    assert message in str(error)
    assert error.span is not None
    assert error.span.line == 4
    row = text.split("\n")[3]
    assert row[error.span.column - 1 :].startswith(caret)
    assert "^" * len(caret) in str(error)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E0801"),
        ("program v1 x machine y {", "E0801"),
        ("listing v2 t machine ascend910", "E0802"),
        (HEADER + "core c < 1 {", "E0801"),
        (HEADER + "}", "E0801"),
        (HEADER + "tensor y f16[2] output", "E0801"),
        (HEADER + "buffer b: ub 12", "E0801"),
        (HEADER + LINE, "E0801"),
    ],
)
def test_bad_structure(text: str, code: str) -> None:
    with pytest.raises(ListingError) as caught:
        npu.parse_listing(text)
    assert caught.value.code == code


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_text_never_fails_otherwise(data: st.DataObject) -> None:
    text = PIPELINED
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 12))
    new = data.draw(st.text(alphabet="[]{}()<>=,:|@ mod0129-+*ij\n", max_size=6))
    with suppress(OpcError):
        npu.prove(npu.parse_listing(text[:at] + new + text[at + cut :]))
