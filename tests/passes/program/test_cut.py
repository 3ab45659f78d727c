"""What a core does first and last, in parts: the same work, and less time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from opc import driver, machine
from opc.build import Build, run_passes
from opc.npu_kernel import NpuKernel
from opc.program.ir import Instr, Loop, Program, hull
from passes.program._cut import Parts, choices, with_parts
from passes.program.unroll import Unroll, _flat
from tests.helpers import execute, program_arguments

NPU = machine.load("ascend910")
KERNEL = """
kernel f(x: T[N, C, H, W], param w: T[K, C, R, S], param b: f32[K], stride: int, pad: int) -> (y: T[N, K, P, Q]) {
  let P = (H + 2*pad - R) // stride + 1
  let Q = (W + 2*pad - S) // stride + 1
  a = conv2d(x, w, stride=stride, pad=pad)
  y[n, k, p, q] = max(a[n, k, p, q] * 0.5 + b[k], 0)
}"""
SIZES = {
    "1x1": {"N": 32, "C": 256, "H": 14, "W": 14, "K": 128, "R": 1, "S": 1, "stride": 1, "pad": 0},
    "3x3": {"N": 1, "C": 64, "H": 12, "W": 28, "K": 64, "R": 3, "S": 3, "stride": 1, "pad": 1},
    "strided": {"N": 1, "C": 32, "H": 17, "W": 19, "K": 80, "R": 3, "S": 3, "stride": 2, "pad": 1},
}


def built(name: str, **unroll: Any) -> Build:
    """The kernel, with options for the pass."""
    function = driver.specialise(KERNEL, "f.k", NPU, None, SIZES[name], "f16", "nhwc")
    lowered, _ = run_passes(function, driver.pipeline("tensor"), NPU)
    tiled, _ = run_passes(lowered, driver.pipeline("lowering"), NPU)
    steps = [replace(p, **unroll) if isinstance(p, Unroll) else p for p in driver.pipeline("program")]
    module, _ = run_passes(tiled, tuple(steps), NPU)
    return Build(NPU, function, lowered, tiled, module, (), "strict")


def straight(name: str) -> tuple[Program, list[Instr]]:
    """A placed program of one parallel loop, and what that runs without inner loops."""
    function = driver.specialise(KERNEL, "f.k", NPU, None, SIZES[name], "f16", "nhwc")
    lowered, _ = run_passes(function, driver.pipeline("tensor"), NPU)
    tiled, _ = run_passes(lowered, driver.pipeline("lowering"), NPU)
    before = [
        p for p in driver.pipeline("program") if p.name not in ("unroll", "list-schedule", "insert-sync")
    ]
    module, _ = run_passes(tiled, tuple(before), NPU)
    program = module.run
    (loop,) = program.body
    assert isinstance(loop, Loop)
    return program, [s for s in _flat(loop.body) if isinstance(s, Instr)]


def results(program: Program, body: tuple[Instr, ...]) -> dict[str, Any]:
    (loop,) = program.body
    assert isinstance(loop, Loop)
    changed = program.with_body((replace(loop, body=body),))
    given = program_arguments(changed)
    found = execute(changed, {name: np.round(a - 0.75).astype(a.dtype) for name, a in given.items()})
    return {b.name: found[b.name] for b in program.buffers if b.kind == "output"}


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", SIZES)
def test_parts_compute_the_same(name: str, parts: int) -> None:
    program, body = straight(name)
    whole = results(program, tuple(body))
    found = choices(body, program, NPU, parts)
    assert found
    for choice in found:
        for key, value in results(program, with_parts(body, choice)).items():
            assert np.array_equal(value, whole[key])


@pytest.mark.parametrize("name", SIZES)
def test_parts_write_every_element_once(name: str) -> None:
    program, body = straight(name)
    for choice in choices(body, program, NPU, 4):
        for n, parts in choice.items():
            assert len(parts) > 1
            assert sum(map(written, parts)) == written(body[n])


def written(i: Instr) -> int:
    return int(np.prod([size for _, size in hull(i.dst[0], i.extents)]))


def kinds(body: list[Instr], found: list[Parts]) -> set[str]:
    return {body[n].opcode for choice in found for n in choice}


def test_loads_products_drains_and_stores_can_be_cut() -> None:
    program, body = straight("1x1")
    found = kinds(body, choices(body, program, NPU, 4))
    assert found >= {"copy_in.copy", "cube.mma", "scale.drain", "copy_out.copy"}, found


@pytest.mark.parametrize("name", ["1x1", "3x3"])
def test_parts_save_time(name: str) -> None:
    whole, cut = (NpuKernel(built(name, effort=effort)).timeline for effort in (0, 16_384))
    assert cut.cycles < whole.cycles
    assert NpuKernel(built(name)).proofs
