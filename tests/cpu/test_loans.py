"""Workspace and scratch in results that are written later: what else comes to lie there never matters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import driver
from opc.cpu.kernel import CpuKernel, compile_kernel
from opc.machine import load
from opc.pipeline import Context
from opc.program import interpret
from opc.program.ir import Buffer, Program, Stmt
from opc.program.liveness import phases
from opc.program.text import parse_program, print_program
from opc.program.verify import problems
from opc.sources import BACKWARD, Wanted
from passes.program.plan_memory import PlanMemory
from tests.cpu.native import Array, aligned, data

ROW = 32  # bytes of a row, which is a vector
JUNK = """program v1 junk machine {machine} {{
  buffer y: f32[{rows},8]@gm output
  buffer junk{n}: f32[{rows},8]@gm workspace in {lender} at {start}
  buffer r{n}: f32[8]@reg local at 0
  parallel one < 1 {{
    loop i < {rows} {{
      vector.copy r{n}[j] = nan for j<8
      copy_out.copy junk{n}[i, j] = r{n}[j] for j<8
    }}
  }}
}}"""


def gaps(program: Program, number: int) -> Iterator[tuple[str, int, int]]:
    """Bytes that hold nothing between two phases, in results that have not been written yet."""
    found = phases(program)
    alive = [
        b.name for b in program.buffers if b.kind != "packed" and any(b.name in f for f in found[:number])
    ]
    alive = [n for n in alive if any(n in f for f in found[number:])]
    packed = [b.name for b in program.buffers if b.kind == "packed"]
    if any(name in f for f in found[number:] for name in packed):
        alive += packed
    for b in program.buffers:
        if b.kind != "output" or any(b.name in f for f in found[:number]):
            continue
        guests = [g for g in program.buffers if g.lender == b.name and g.name in alive]
        end = 0
        for guest in sorted(guests, key=lambda g: g.offsets):
            if guest.offsets[0] - end >= ROW:
                yield b.name, end, guest.offsets[0]
            end = -(-(guest.offsets[0] + guest.slot_bytes) // 64) * 64
        if b.slot_bytes - end >= ROW:
            yield b.name, end, b.slot_bytes


def poisoned(program: Program) -> Program:
    """The program with a phase before each of its own that fills such bytes with NaN."""
    assert len(phases(program)) == len(program.body)
    buffers, body = list(program.buffers), list[Stmt]()
    for number, stmt in enumerate(program.body):
        for lender, start, end in gaps(program, number):
            rows, n = (end - start) // ROW, len(body)
            text = JUNK.format(rows=rows, n=n, lender=lender, start=start, machine=program.machine)
            junk = parse_program(text)
            buffers += junk.buffers[1:]
            body += junk.body
        body.append(stmt)
    return replace(program, buffers=tuple(buffers), body=tuple(body))


def native(
    kernel: CpuKernel, packed: list[Buffer], arrays: dict[str, Array], threads: int, lend: bool
) -> dict[str, bytes]:
    """The results' bits, where results lend memory and where they do not."""
    found: dict[str, Array] = {}
    for b in kernel.run_arguments:
        found[b.name] = aligned(arrays[b.name].nbytes)
        found[b.name][...] = 0xFF if b.kind == "output" else arrays[b.name].reshape(-1).view(np.uint8)
    executable = kernel.executable
    lent = [found[lender.name].ctypes.data for lender in executable.run.lenders] if lend else []
    workspace = aligned(executable.workspace_size(threads, bool(lent)))
    workspace[...] = 0xFF
    blob = (
        found[executable.packed_lender] if lend and executable.packed_lender else aligned(kernel.packed_size)
    )
    offsets = kernel.unit.run.layout.offsets
    for b in packed:
        blob[offsets[b.name][0] :][: b.slot_bytes] = arrays[b.name].reshape(-1).view(np.uint8)
    pointers = [found[b.name].ctypes.data for b in kernel.run_arguments]
    kernel.run(pointers, blob.ctypes.data, workspace.ctypes.data, threads, lent)
    return {b.name: found[b.name].tobytes() for b in kernel.run_arguments if b.kind == "output"}


def agree(program: Program, arrays: dict[str, Array], machine: str) -> int:
    """The same bits with and without loans and NaN around them, on one thread and on two. How many results lend."""
    answers, packed = [], [b for b in program.buffers if b.kind == "packed"]
    for version in (program, poisoned(program)):
        assert problems(version, load(machine)) == []
        kernel = compile_kernel(None, version, load(machine), host_features=True, emulate=machine == "amx")
        answers += [native(kernel, packed, arrays, n, lend) for n in (1, 2) for lend in (True, False)]
    assert all(a == answers[0] for a in answers), print_program(program)
    return len(kernel.executable.run.lenders)


@st.composite
def chains(draw: st.DrawFn) -> Program:
    """Phases that each add what earlier ones left, through scratch, into workspace or a result."""
    rows = {"x": 8}
    lines, body = ["  buffer x: f32[8,8]@gm input"], []
    results = draw(st.integers(2, 3))
    kinds = draw(st.permutations(["workspace"] * draw(st.integers(1, 4)) + ["output"] * results))
    for n, kind in enumerate([*kinds, "output"]):
        size = draw(st.sampled_from([1, 2, 4, 8, 24]))
        one, two = draw(st.sampled_from(list(rows))), draw(st.sampled_from(list(rows)))
        lines.append(f"  buffer b{n}: f32[{size},8]@gm {kind}")
        lines += [
            f"  buffer s{n}: f32[8]@l2 local",
            f"  buffer t{n}: f32[8]@reg local",
            f"  buffer u{n}: f32[8]@reg local",
        ]
        body += [
            f"  parallel i < {size} {{",
            f"    copy_in.copy s{n}[j] = {one}[{draw(st.integers(0, rows[one] - 1))}, j] for j<8",
            f"    copy_in.copy t{n}[j] = s{n}[j] for j<8",
            f"    copy_in.copy u{n}[j] = {two}[{rows[two] - 1}, j] for j<8",
            f"    vector.add t{n}[j] = t{n}[j], u{n}[j] for j<8",
            f"    copy_out.copy b{n}[i, j] = t{n}[j] for j<8",
            "  }",
        ]
        rows[f"b{n}"] = size
    return parse_program("\n".join(["program v1 chain machine avx2 {", *lines, *body, "}"]))


@settings(max_examples=15, deadline=None)
@given(chains())
def test_what_surrounds_a_loan_does_not_matter(chain: Program) -> None:
    machine = load("avx2")
    program = PlanMemory().run(chain, Context(machine))
    assert isinstance(program, Program)
    arrays = data(program, 0)
    agree(program, {**arrays}, "avx2")
    expected = {name: a.copy() for name, a in arrays.items()}
    interpret.run(poisoned(program), expected, machine=machine)
    clean = {name: a.copy() for name, a in arrays.items()}
    interpret.run(chain, clean, machine=machine, check=True)
    for b in program.buffers:
        if b.kind == "output":
            np.testing.assert_array_equal(expected[b.name], clean[b.name])


SIZES = {"N": 2, "C": 32, "CG": 32, "H": 10, "W": 10, "K": 32, "R": 3, "S": 3}


@pytest.mark.parametrize(("machine", "dtype"), [("avx2", "f32"), ("avx512", "f32"), ("amx", "bf16")])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_surrounds_the_loans_of_a_gradient_does_not_matter(
    machine: str, dtype: str, stride: int
) -> None:
    sizes = {**SIZES, "stride": stride}
    wanted = Wanted(None, sizes, dtype, "nhwc", BACKWARD, ("x", "w", "gamma", "beta"), "", True)
    made = driver.source(kernels_dsl.source("conv_bn_relu_train"), "k.k", wanted, load(machine))
    program = driver.build(made.function, load(machine), half=made.half).module.run
    assert agree(program, data(program, 0), machine)
