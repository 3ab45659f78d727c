"""Lowering keeps the meaning: every function here, on every machine, against the oracle's bound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opc import machine
from opc.dtypes import DType
from opc.errors import OpcError
from opc.pipeline import Context
from opc.program.ir import Loop, Module, instructions
from opc.program.verify import verify as verify_program
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from opc.tensor.text import parse_function
from opc.tensor.verify import verify
from passes import PIPELINES, load
from tests.helpers import execute_function

FUNCTIONS = sorted((Path(__file__).parent / "functions").glob("*.ir"))


def specialise(path: Path, dtype: DType) -> Function:
    """The function with its f32 tensors in ``dtype``."""
    text = re.sub(r": f32\[", f": {dtype}[", path.read_text(encoding="utf-8"))
    return parse_function(text, str(path))


def lowered(function: Function, name: str) -> Module:
    """The placed module; every step verified."""
    context = Context(machine.load(name))
    ir: object = function
    for step in PIPELINES["tensor"]:
        ir = load(step)().run(ir, context)
        assert isinstance(ir, Function)
        verify(ir)
    for step in PIPELINES["lowering"]:
        ir = load(step)().run(ir, context)
    assert isinstance(ir, Module)
    for program in ir.programs:
        verify_program(program, context.machine)
    return ir


def cases() -> list[tuple[str, DType]]:
    found: list[tuple[str, DType]] = []
    for name in machine.names():
        m = machine.load(name)
        found += [(name, t) for t in (DType.F32, DType.F16, DType.BF16) if t in m.dtypes["cube"]]
    return found


@pytest.mark.parametrize(("name", "dtype"), cases(), ids=lambda v: str(v))
@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda p: p.stem)
def test_meaning(path: Path, name: str, dtype: DType) -> None:
    function = specialise(path, dtype)
    arrays = random_inputs(function, 3)
    results = execute_function(lowered(function, name), function, arrays)
    expected = oracle(function, arrays)
    for result in function.results:
        report = check(results[result], expected[result])
        assert report.ok, f"{result}: {report}"


def test_ragged_columns_stay_inside_the_tensor() -> None:
    module = lowered(specialise(FUNCTIONS[0].with_name("ragged.ir"), DType.F32), "avx2")
    widths = {
        dict(i.dims).get("j_i", 1) for i, _ in instructions(module.run.body) if i.opcode_class == "copy_out"
    }
    assert widths == {16, 13}


def test_a_missing_dtype_names_machines_that_have_it() -> None:
    with pytest.raises(OpcError, match="avx2") as caught:
        lowered(specialise(FUNCTIONS[0].with_name("mm.ir"), DType.F32), "ascend910")
    assert caught.value.code == "E0620"


def test_weights_too_large_to_re_read_are_spread_by_columns() -> None:
    module = lowered(specialise(FUNCTIONS[0].with_name("deep.ir"), DType.F32), "avx2")
    padding, loop = module.run.body
    assert isinstance(padding, Loop)
    assert isinstance(loop, Loop)
    assert loop.var == "k_b_o"
