"""multi-buffer, plan-memory and expand-slots on random programs: same results, valid, printable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc import machine as machines
from opc.errors import MachineError
from opc.machine.model import Machine
from opc.pipeline import Context, Pass
from opc.program.interpret import run, trace
from opc.program.ir import Buffer, Module, Program
from opc.program.memory import capacity, offset_unit, pressure, slot_size, space_bytes
from opc.program.text import parse_program, print_program
from opc.program.verify import problems
from passes.program.expand_slots import ExpandSlots
from passes.program.multi_buffer import MultiBuffer
from passes.program.plan_memory import PlanMemory
from tests.strategies.program import arguments, programs

SAMPLE = Path(__file__).parent.parent / "samples" / "conv_bn_relu.ascend910.program"


def applied(passes: list[Pass], program: Program, machine: Machine) -> Program:
    """The result of the passes, each checked against the program it got."""
    expected = arguments(program)
    run(program, expected, check=True)
    for p in passes:
        result = p.run(program, Context(machine))
        assert isinstance(result, Program)
        text = print_program(result)
        assert print_program(parse_program(text)) == text
        level = "expanded" if p.name == "expand-slots" else "legal"
        assert problems(result, machine, level) == [], text
        found = arguments(result)
        run(result, found, check=True, machine=machine, order=3)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=text)
        assert p.run(result, Context(machine)) == result, "running the pass again changes nothing"
        program = result
    return program


@settings(max_examples=40, deadline=None)
@given(programs(), st.integers(1, 3), st.booleans())
def test_memory_pipeline(program: Program, slots: int, addressable: bool) -> None:
    machine = machines.load(program.machine)
    applied([MultiBuffer(slots), PlanMemory(), ExpandSlots(addressable)], program, machine)


@settings(max_examples=25, deadline=None)
@given(programs("ascend910"))
def test_planning_in_little_memory(program: Program) -> None:
    """As little as sharing everything needs is enough for the pass without the option, too."""
    machine = machines.load(program.machine)
    shared = applied([PlanMemory(share=True), ExpandSlots(True)], program, machine)
    spaces = {
        name: replace(space, capacity=space_bytes(shared, machine, name) or space.capacity)
        for name, space in machine.spaces.items()
    }
    applied([PlanMemory(), ExpandSlots(True)], program, replace(machine, spaces=spaces))


@settings(max_examples=25, deadline=None)
@given(programs("avx2"))
def test_expand_slots_keeps_every_instance(program: Program) -> None:
    machine = machines.load(program.machine)
    expanded = ExpandSlots().run(program, Context(machine))
    assert isinstance(expanded, Program)

    def opcodes(p: Program) -> list[str]:
        return sorted(f"{i.iteration} {i.instr.opcode}" for i in trace(p))

    assert opcodes(expanded) == opcodes(program)


def sample() -> Program:
    return parse_program(SAMPLE.read_text(encoding="utf-8"))


def test_sharing_is_the_last_resort() -> None:
    """With room for all, no two buffers of a space share bytes."""
    machine = machines.load("ascend910")
    planned = PlanMemory().run(sample(), Context(machine))
    assert isinstance(planned, Program)
    for b in planned.buffers:
        for other in planned.buffers:
            if b.name < other.name and b.kind == other.kind == "local" and b.space == other.space:
                ends = (b.offsets[0] + slot_size(machine, b), other.offsets[0] + slot_size(machine, other))
                assert ends[0] <= other.offsets[0] or ends[1] <= b.offsets[0]


def test_fractal_sizes() -> None:
    machine = machines.load("ascend910")
    for shape, size in (((16, 16), 512), ((17, 16), 1024), ((1, 1), 512), ((3, 17, 20), 3 * 32 * 32 * 2)):
        assert slot_size(machine, Buffer("a", machine.default_dtype, shape, "l0a")) == size


def test_register_offsets_count_registers() -> None:
    machine = machines.load("avx2")
    b = Buffer("r", machine.default_dtype, (3, 8), "reg")
    assert (slot_size(machine, b), offset_unit(machine, b), capacity(machine, "reg")) == (3, 32, 16)


def test_registers_may_spill_and_pressure_says_so() -> None:
    text = """program v1 wide machine avx2 {
  buffer x: f32[40,8]@gm input
  buffer y: f32[40,8]@gm output
  buffer t: f32[40,8]@reg local
  copy_in.copy t[i, j] = x[i, j] for i<40, j<8
  copy_out.copy y[i, j] = t[i, j] for i<40, j<8
}
"""
    machine = machines.load("avx2")
    planned = applied([PlanMemory()], parse_program(text), machine)
    assert pressure(planned, machine) == {"reg": (40 * 32, 512)}


def test_prepare_and_run_agree_on_packed_offsets() -> None:
    head = "program v1 k machine avx2 {\n"
    b, a = "  buffer b: f32[3]@gm packed\n", "  buffer a: f32[5]@gm packed\n"
    module = Module(parse_program(head + b + a + "}\n"), parse_program(head + a + b + "}\n"))
    planned = PlanMemory().run(module, Context(machines.load("avx2")))
    assert isinstance(planned, Module)
    found = [{x.name: x.offsets for x in p.buffers} for p in planned.programs]
    assert found == [{"a": (0,), "b": (64,)}] * 2


def test_overflow_names_the_largest_buffer() -> None:
    machine = machines.load("ascend910")
    small = replace(machine, spaces={**machine.spaces, "ub": replace(machine.spaces["ub"], capacity=2048)})
    with pytest.raises(MachineError) as caught:
        PlanMemory().run(sample(), Context(small))
    assert caught.value.code == "E0650"
    assert "'t'" in caught.value.help
    assert caught.value.diagnostics[0].notes


def test_multi_buffer_needs_flags() -> None:
    program = sample()
    without = replace(machines.load("ascend910"), sync="none")
    assert MultiBuffer().run(program, Context(without)) is program
    assert MultiBuffer(1).run(program, Context(machines.load("ascend910"))) is program
