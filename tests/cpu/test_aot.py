"""Objects, shared objects and headers; a C program that uses them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from opc.cpu import aot, emit
from opc.cpu.header import emit_header
from opc.cpu.kernel import Unit, compile_kernel, lower
from opc.errors import RuntimeCallError
from opc.machine import load
from opc.program.text import parse_program
from opc.tensor.ir import Tensor
from tests.cpu.native import addresses, aligned
from tests.cpu.test_kernel import PREPARE, RUN

MAIN = """\
#include "opc_scale.h"
#include <stdio.h>
#include <stdlib.h>

int main(void) {
  float w[15], x[160], y[200];
  for (int i = 0; i < 15; i++) w[i] = (float)(i % 7) - 3.0f;
  for (int i = 0; i < 160; i++) x[i] = (float)(i % 5) - 2.0f;
  void *packed = aligned_alloc(64, opc_scale_packed_size() + 64);
  void *workspace = aligned_alloc(64, opc_scale_workspace_size() + 64);
  if (!packed || !workspace) return 1;
  if (opc_scale_prepare(w, packed)) return 2;
  if (opc_scale_run(x, packed, y, workspace)) return 3;
  for (int i = 0; i < 200; i++) printf("%g\\n", (double)y[i]);
  free(packed);
  free(workspace);
  return 0;
}
"""


def declared(unit: Unit) -> dict[str, Tensor]:
    """Every argument as its program buffer has it."""
    prepare = unit.prepare.arguments if unit.prepare else ()
    return {b.name: Tensor(b.name, b.dtype, b.shape) for b in (*prepare, *unit.run.arguments)}


@pytest.fixture(scope="module")
def unit() -> Iterator[Unit]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emit, "TEAM_WORK", 0)
        yield lower(parse_program(PREPARE), parse_program(RUN), load("avx2"))


@pytest.mark.parametrize("flags", [[], ["-fopenmp"]], ids=["alone", "openmp"])
def test_a_c_program(unit: Unit, tmp_path: Path, flags: list[str]) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "opc_scale.h").write_text(emit_header(unit, declared(unit)), encoding="utf-8")
    (tmp_path / "scale.o").write_bytes(aot.emit_object(unit))
    (tmp_path / "main.c").write_text(MAIN, encoding="utf-8")
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", *flags, "main.c", "scale.o", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    found = np.array(printed.split(), np.float32).reshape(40, 5)
    w = (np.arange(15) % 7 - 3.0).reshape(3, 5)
    x = (np.arange(160) % 5 - 2.0).reshape(40, 4)
    assert np.array_equal(found, (x[:, :3] @ w)[::-1] + 1)


def test_shared_object_computes_what_the_jit_computes(unit: Unit, tmp_path: Path) -> None:
    path = tmp_path / "scale.so"
    aot.link([aot.emit_object(unit)], path)
    library = ctypes.CDLL(str(path))
    library.opc_scale_packed_size.restype = library.opc_scale_workspace_size.restype = ctypes.c_size_t
    random = np.random.default_rng(0)
    w, x = random.standard_normal((3, 5), np.float32), random.standard_normal((40, 4), np.float32)
    packed, workspace = aligned(library.opc_scale_packed_size()), aligned(library.opc_scale_workspace_size())
    y, expected = np.zeros((2, 40, 5), np.float32)
    assert library.opc_scale_prepare(*addresses(w, packed)) == 0
    assert library.opc_scale_run(*addresses(x, packed, y, workspace)) == 0
    kernel = compile_kernel(parse_program(PREPARE), parse_program(RUN), load("avx2"))
    kernel.run([x.ctypes.data, expected.ctypes.data], packed.ctypes.data, workspace.ctypes.data)
    assert np.array_equal(y, expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scale.so"]


def test_objects_are_reproducible(unit: Unit) -> None:
    again = lower(parse_program(PREPARE), parse_program(RUN), load("avx2"))
    assert aot.emit_object(unit) == aot.emit_object(again)


def test_text_forms(unit: Unit) -> None:
    assert "define i32 @opc_scale_run(" in aot.emit_llvm(unit)
    assert "vfmadd" in aot.emit_assembly(unit)


def test_tensors_may_be_named_like_c_keywords() -> None:
    run = RUN.replace("buffer x:", "buffer int:").replace("x[i, k]", "int[i, k]")
    run = run.replace("buffer y:", "buffer workspace:").replace(" y[i, n]", " workspace[i, n]")
    keywords = lower(None, parse_program(run), load("avx2"))
    header = emit_header(keywords, declared(keywords))
    assert "const float *int_, const void *packed, float *workspace_, void *workspace" in header


def test_a_failing_linker_is_a_diagnostic(
    unit: Unit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeCallError) as caught:
        aot.link([aot.emit_object(unit)], tmp_path / "k.so")
    assert caught.value.code == "E0953"
    assert not list(tmp_path.iterdir())


def test_other_processors() -> None:
    programs = parse_program(PREPARE), parse_program(RUN)
    foreign = lower(*programs, load("portable"), triple="aarch64-unknown-linux-gnu")
    assert aot.emit_object(foreign)[:4] == b"\x7fELF"
    assert "fmla" in aot.emit_assembly(foreign)
    with pytest.raises(RuntimeCallError) as caught:
        aot.emit_object(lower(*programs, load("portable"), triple="nowhere-unknown-none"))
    assert caught.value.code == "E0950"
