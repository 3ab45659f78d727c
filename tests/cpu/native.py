"""Run a program's machine code and its interpreter on the same data."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from opc.cpu.kernel import CpuKernel, compile_kernel
from opc.machine import load
from opc.program import interpret
from opc.program.ir import Program
from opc.program.text import parse_program

Array = Any


def aligned(size: int) -> Array:
    raw = np.zeros(max(size, 1) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + max(size, 1)]


def data(program: Program, seed: int, integers: bool = False) -> dict[str, Array]:
    """Random contents of every buffer that is not local."""
    random = np.random.default_rng(seed)
    arrays = {}
    for b in program.buffers:
        if b.kind == "local":
            continue
        if b.dtype.is_float and not integers:
            values = random.standard_normal(b.shape)
        else:
            values = random.integers(-4, 5, b.shape) if integers else random.integers(-100, 100, b.shape)
        arrays[b.name] = values.astype(b.dtype.numpy)
    return arrays


def run_native(kernel: CpuKernel, arrays: dict[str, Array], threads: int = 1) -> dict[str, Array]:
    """Copies of the arguments after ``run``; packed buffers are taken from ``arrays``."""
    packed, workspace = aligned(kernel.packed_size), aligned(kernel.workspace_size(threads))
    for name, (offset, *_) in kernel.unit.run.layout.offsets.items():
        if name in arrays:
            raw = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
            packed[offset : offset + raw.size] = raw
    found = {b.name: arrays[b.name].copy() for b in kernel.run_arguments}
    pointers = [found[b.name].ctypes.data for b in kernel.run_arguments]
    kernel.run(pointers, packed.ctypes.data, workspace.ctypes.data, threads)
    return found


def interpreted(program: Program, arrays: dict[str, Array], machine: str) -> dict[str, Array]:
    expected = {name: a.copy() for name, a in arrays.items()}
    with np.errstate(all="ignore"):
        interpret.run(program, expected, machine=load(machine))
    return expected


def agree(text: str, machine: str = "avx2", seed: int = 0, integers: bool = False, **options: bool) -> None:
    """The program's machine code computes what its interpreter computes, to within rounding."""
    program = parse_program(text)
    kernel = compile_kernel(None, program, load(machine), host_features=True, **options)
    arrays = data(program, seed, integers)
    expected = interpreted(program, arrays, machine)
    found = run_native(kernel, arrays)
    for b in kernel.run_arguments:
        if b.kind in ("output", "inout"):
            slack = 2e-5 + 4 * b.dtype.roundoff
            if any(x.dtype.roundoff > 1e-4 for x in program.buffers):
                slack = max(slack, 0.02)
            _close(found[b.name], expected[b.name], slack, text)


def _close(found: Array, expected: Array, slack: float, text: str) -> None:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        equal = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= slack * (1 + np.abs(b)))
    assert equal.all(), f"{np.argwhere(~equal)[:3]}: {a[~equal][:3]} != {b[~equal][:3]}\n{text}"


def addresses(*arrays: Array) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(a.ctypes.data) for a in arrays]
