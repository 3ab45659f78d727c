"""Every instruction, on random shapes, indices and types: machine code against the interpreter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.program.text import parse_program
from opc.program.verify import verify
from tests.cpu.native import agree
from tests.cpu.programs import FAMILIES

MACHINES = ("avx2", "avx512", "avx512bf16", "portable")


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), machine=st.sampled_from(MACHINES))
def test_machine_code_computes_what_the_program_means(family: str, seed: int, machine: str) -> None:
    text = FAMILIES[family](random.Random(seed))
    verify(parse_program(text))
    agree(text, machine, seed=seed % 1000, integers="arg" in text)
