"""Every diagnostic of the tensor IR family, by golden text; ``--bless`` rewrites the messages.

A file holds IR text, ``# ====`` and what opc says about it. Its name starts with the code it is about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opc.codes import explanations
from opc.dtypes import DType
from opc.errors import IRError
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Arg, Function, Op, Tensor
from opc.tensor.text import parse_function
from opc.tensor.verify import problems, verify

FOLDER = Path(__file__).parent / "diagnostics"
FILES = sorted(FOLDER.glob("*.ir"))
SEPARATOR = "# ====\n"
SCALE = """func v1 scale {
  arg x: f32[4] input
  op y: f32[4] {
    piece i<4 at i = mul(x[i], 2)
  }
  return y
}
"""


@pytest.mark.parametrize("path", FILES, ids=[f.stem for f in FILES])
def test_message(path: Path, bless: bool) -> None:
    text, _, expected = path.read_text(encoding="utf-8").partition(SEPARATOR)
    with pytest.raises(IRError) as caught:
        verify(parse_function(text, path.name))
    message = str(caught.value) + "\n"
    code = path.stem.partition("-")[0]
    if code.startswith("E"):
        assert {d.code for d in caught.value.diagnostics} == {code}
    if bless:
        path.write_text(text + SEPARATOR + message, encoding="utf-8")
        return
    assert message == expected, "run 'make bless' if the new message is right"


def codes(f: Function) -> set[str]:
    return {d.code for d in problems(f)}


def corrupted(change: Callable[[Function], Function]) -> set[str]:
    f = parse_function(SCALE)
    assert codes(f) == set()
    return codes(change(f))


def test_what_text_cannot_say() -> None:
    x = Tensor("my x", DType.F32, (4,))
    assert corrupted(lambda f: replace(f, args=(*f.args, Arg(x)))) == {"E0501"}
    assert corrupted(lambda f: replace(f, name="2d")) == {"E0501"}
    assert corrupted(lambda f: replace(f, args=(Arg(f.args[0].tensor, "weight"),))) == {"E0506"}
    assert corrupted(lambda f: f.with_ops((*f.ops, Op((), f.ops[0].pieces)))) == {"E0507"}
    grouped = replace(parse_function(SCALE).ops[0], group="a group")
    assert corrupted(lambda f: f.with_ops((grouped,))) == {"E0501"}


@pytest.mark.parametrize(
    ("arrays", "code"), [({}, "E0431"), ({"x": np.zeros(5)}, "E0432"), ({"x": np.zeros((4, 1))}, "E0432")]
)
def test_arrays_that_do_not_fit(
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], code: str
) -> None:
    with pytest.raises(IRError) as caught:
        evaluate(parse_function(SCALE), arrays)
    assert caught.value.code == code


def test_every_code_of_the_family_is_tested() -> None:
    family = {c for c, e in explanations().items() if e.family == "tensor"}
    tested = {f.stem.partition("-")[0] for f in FILES} | {"E0431", "E0432", "E0501", "E0506"}
    assert sorted(family - tested) == []


def test_examples_of_explanations_name_no_other_family() -> None:
    for code, entry in explanations().items():
        if entry.family == "tensor":
            assert re.match(r"E0(41[1-9]|43\d|5[0-4]\d)\Z", code)
