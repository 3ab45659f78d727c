"""The tensor IR that docs/ir.md shows is canonical and verifies; the names it imports exist."""

from __future__ import annotations

import re
from pathlib import Path

from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import verify

TEXT = (Path(__file__).parents[2] / "docs" / "ir.md").read_text(encoding="utf-8")


def test_examples_are_canonical() -> None:
    examples = [block for block in re.findall(r"```\n(.*?)```", TEXT, re.S) if block.startswith("func v1")]
    assert examples
    for text in examples:
        f = parse_function(text)
        verify(f)
        assert print_function(f) == text


def test_imports_work() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/ir.md", "exec"), {})
