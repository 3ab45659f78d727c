"""docs/ir.md shows a valid program and the opcode table as declared."""

from __future__ import annotations

import re
from pathlib import Path

from opc import machine as machines
from opc.program.opcodes import OPCODES
from opc.program.text import parse_program, print_program
from opc.program.verify import problems

PAGE = (Path(__file__).parents[2] / "docs" / "ir.md").read_text(encoding="utf-8")


def test_programs_in_the_page_are_valid_and_canonical() -> None:
    found = re.findall(r"^```\n(program v1 .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    for text in found:
        program = parse_program(text)
        assert print_program(program) == text
        assert problems(program, machines.load(program.machine)) == []


def test_every_opcode_has_its_row() -> None:
    rows = [
        f"| `{o.name}` | {o.destinations} | {o.sources} | {'yes' if o.reduces else ''} | {o.doc} |"
        for o in OPCODES.values()
    ]
    shown = [line for line in PAGE.splitlines() if re.match(r"\| `[a-z_]+\.[a-z_0-9]+` \|", line)]
    assert shown == rows
