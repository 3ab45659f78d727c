"""Lowered functions as machine code: vector widths and tiles this host lacks run emulated, all within the bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opc import machine
from opc.arrays import Array, empty, physical
from opc.cpu.kernel import compile_kernel
from opc.dtypes import DType
from opc.pipeline import Context
from opc.program.ir import Module
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from passes import PIPELINES, load
from tests.cpu import tile_trap
from tests.lowering.test_lowering import FUNCTIONS, lowered, specialise

CPUS = [name for name in machine.names() if machine.load(name).kind == "cpu"]


def run(
    function: Function, name: str, arrays: dict[str, Array], threads: int, tiles: bool = False
) -> dict[str, Array]:
    """Results of the compiled kernel, in logical order. ``tiles``: tile instructions run as such, not emulated."""
    return run_module(lowered(function, name), function, name, arrays, threads, tiles)


def run_module(
    module: Module,
    function: Function,
    name: str,
    arrays: dict[str, Array],
    threads: int,
    tiles: bool = False,
) -> dict[str, Array]:
    """Results of a placed module after the program passes."""
    target = machine.load(name)
    for step in PIPELINES["program"]:
        module = load(step)().run(module, Context(target))
    emulate = any(f.startswith("amx") for f in target.features) and not tiles
    kernel = compile_kernel(module.prepare, module.run, target, host_features=not emulate, emulate=emulate)
    table = function.tensors()
    memory = {n: np.array(physical(a, table[n]), order="C") for n, a in arrays.items()}
    for b in (*kernel.prepare_arguments, *kernel.run_arguments):
        memory.setdefault(b.name, np.zeros(b.shape, b.dtype.numpy))
    packed = np.zeros(kernel.packed_size + 64, np.uint8)
    workspace = np.zeros(kernel.workspace_size(threads) + 64, np.uint8)
    blobs = [a.ctypes.data + (-a.ctypes.data) % 64 for a in (packed, workspace)]
    kernel.prepare([memory[b.name].ctypes.data for b in kernel.prepare_arguments], *blobs)
    kernel.run([memory[b.name].ctypes.data for b in kernel.run_arguments], *blobs, nthreads=threads)
    found = {}
    for result in function.results:
        found[result] = empty(table[result])
        target_view = physical(found[result], table[result])
        target_view[...] = memory[result].reshape(target_view.shape)
    return found


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda p: p.stem)
def test_within_the_bound_at_any_thread_count(path: Path, name: str, dtype: DType) -> None:
    function = specialise(path, dtype)
    arrays = random_inputs(function, 5)
    expected = oracle(function, arrays)
    one, two = (run(function, name, arrays, threads) for threads in (1, 2))
    for result in function.results:
        report = check(one[result], expected[result])
        assert report.ok, f"{result}: {report}"
        assert one[result].tobytes() == two[result].tobytes()


@pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")
@pytest.mark.parametrize("path", FUNCTIONS, ids=lambda p: p.stem)
def test_tile_instructions_as_a_processor_would_run_them(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = specialise(path, DType.BF16)
    arrays = random_inputs(function, 5)
    expected = oracle(function, arrays)
    with tile_trap.trapping(tmp_path_factory.getbasetemp(), monkeypatch) as trapped:
        one, two = (run(function, "amx", arrays, threads, tiles=True) for threads in (1, 2))
    assert trapped.faults == 0, trapped.message
    assert trapped.counts["ldtilecfg"] == trapped.counts["tilerelease"]
    for result in function.results:
        report = check(one[result], expected[result])
        assert report.ok, f"{result}: {report}"
        assert one[result].tobytes() == two[result].tobytes()
