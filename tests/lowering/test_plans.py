"""Choices of a plan: their text, their errors, and that no choice changes a bit of any result."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opc import machine
from opc.dtypes import DType
from opc.errors import OpcError
from opc.pipeline import Context, parse_passes
from opc.program.ir import Module
from opc.tensor.inputs import random_inputs
from opc.tensor.ir import Function
from passes import PIPELINES, load
from passes.lowering._knobs import Knobs
from passes.lowering.candidates import candidates
from passes.lowering.tile import Tile
from tests.lowering.test_lowering import FUNCTIONS, specialise
from tests.lowering.test_machine_code import CPUS, run_module

CONTRACTIONS = ("conv_bn_relu", "mm", "ragged", "deep", "deep_ragged", "grouped", "lin1")


def arranged(function: Function, name: str) -> Function:
    """The function after the tensor pipeline."""
    context = Context(machine.load(name))
    for step in PIPELINES["tensor"]:
        function = load(step)().run(function, context)
    return function


def planned(function: Function, name: str, plans: str) -> Module:
    """The placed module with these plans."""
    context = Context(machine.load(name))
    ir: object = Tile(plans).run(function, context)
    for step in PIPELINES["lowering"][1:]:
        ir = load(step)().run(ir, context)
    assert isinstance(ir, Module)
    return ir


@given(
    st.builds(
        Knobs, rows=st.none() | st.integers(1, 99), order=st.none() | st.sampled_from(["rows", "columns"])
    )
)
def test_knobs_read_back(knobs: Knobs) -> None:
    assert Knobs.parse(str(knobs)) == knobs


@pytest.mark.parametrize("text", ["rows=0", "rows=x", "order=up", "depth=3", "rows", "rows=²"])
def test_bad_knobs_are_refused(text: str) -> None:
    with pytest.raises(OpcError, match="plan") as caught:
        Knobs.parse(text)
    assert caught.value.code == "E0707"


def test_more_plans_than_contractions_are_refused() -> None:
    function = arranged(specialise(path("mm"), DType.F32), "avx2")
    with pytest.raises(OpcError, match="2 plans for 1 contractions"):
        planned(function, "avx2", "rows=4;rows=4")


def test_the_pass_takes_plans_from_text() -> None:
    (tile,) = parse_passes('tile{plans="rows=4 slab=2;order=columns"}', {"tile": Tile})
    assert tile == Tile("rows=4 slab=2;order=columns")


def path(name: str) -> Path:
    return FUNCTIONS[0].with_name(f"{name}.ir")


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("kernel", CONTRACTIONS)
def test_every_candidate_gives_the_same_bits(kernel: str, name: str, dtype: DType) -> None:
    function = specialise(path(kernel), dtype)
    arrays = random_inputs(function, 5)
    tensors = arranged(function, name)
    plans = candidates(tensors, machine.load(name))
    assert plans[0] == ""
    first = run_module(planned(tensors, name, ""), function, name, arrays, 1)
    for text in plans[1:]:
        other = run_module(planned(tensors, name, text), function, name, arrays, 2)
        for result in function.results:
            assert other[result].tobytes() == first[result].tobytes(), text
