"""Every example in docs/language.md compiles, or fails with the code that stands beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opc import driver
from opc.dtypes import DType
from opc.errors import LanguageError
from opc.lang import kernel_names, lower
from opc.machine import load
from opc.tensor.verify import verify

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
BLOCK = re.compile(r"^```k(?: (E\d{4}))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("code", "text"), BLOCKS)
def test_example(code: str, text: str) -> None:
    if code:
        with pytest.raises(LanguageError) as caught:
            lower(text)
        assert caught.value.code == code
        return
    for name in kernel_names(text):
        for dtype in (DType.F32, DType.F16):
            verify(driver.specialise(text, "<string>", load("avx2"), name, dtype=dtype))


def test_there_are_examples() -> None:
    assert len(BLOCKS) > 12
    assert sum(bool(code) for code, _ in BLOCKS) >= 4
