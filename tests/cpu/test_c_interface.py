"""The C interface as a published library: the C example, C++, what is refused, and other processors."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels_dsl
import opc
from opc import cli, data, driver
from opc.arrays import empty, physical
from opc.cpu import aot, cpuid
from opc.cpu.header import emit_header
from opc.cpu.kernel import Unit, lower
from opc.machine import load
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function

ROOT = Path(__file__).resolve().parents[2]
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
SIZES = {"C": 16, "H": 14, "W": 14, "K": 32}
AARCH64 = "aarch64-linux-gnu"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def shell(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Object, header and shared object of the kernel that the C example calls."""
    out = tmp_path_factory.mktemp("c")
    sizes = ",".join(f"{n}={v}" for n, v in SIZES.items())
    command = ["compile", str(ROOT / "kernels_dsl/conv_bn_relu.k"), "--target", "cpu", "--layout", "nhwc"]
    forms = "obj,header,so" if shutil.which("gcc") else "obj,header"
    assert cli.run([*command, "--set", sizes, "--emit", forms, "-o", str(out)]) == 0
    return out / "conv_bn_relu"


def expected_bits() -> bytes:
    """What the Python kernel computes on the numbers of the C example."""
    kernel = opc.compile(kernels_dsl.path("conv_bn_relu"), layout="nhwc", **SIZES)
    arrays: dict[str, Any] = {}
    for seed, name in enumerate(("x", "w", "gamma", "beta", "mean", "var"), start=1):
        slot = kernel.signature.slot(name)
        flat = ((np.arange(slot.tensor.size) * 7 + seed) % 31).astype(np.float32) / 16 + np.float32(0.25)
        arrays[name] = kernel.empty(name)
        target = physical(arrays[name], slot.tensor)
        target[...] = flat.reshape(target.shape)
    y = kernel(**arrays)
    return np.ascontiguousarray(physical(y, kernel.signature.slot("y").tensor)).tobytes()


@needs_gcc
@pytest.mark.parametrize("flags", [(), ("-fopenmp",)], ids=["alone", "openmp"])
@pytest.mark.parametrize("form", ["o", "so"])
def test_the_example_in_c(folder: Path, tmp_path: Path, form: str, flags: tuple[str, ...]) -> None:
    example, code = ROOT / "examples/06_call_from_c.c", folder / f"conv_bn_relu.{form}"
    command = ["gcc", "-std=c11", *STRICT, f"-I{folder}", *flags, example, code, "-o", "main"]
    shell(*command, f"-Wl,-rpath,{folder}", cwd=tmp_path)
    assert shell("./main", "y.bin", cwd=tmp_path).startswith("y[0] = ")
    assert (tmp_path / "y.bin").read_bytes() == expected_bits()


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_from_cpp(folder: Path, tmp_path: Path, standard: str) -> None:
    text = """
#include "conv_bn_relu.h"
#include <cstdio>
#include <cstdlib>
int main() {
  void *packed = aligned_alloc(64, opc_conv_bn_relu_packed_size());
  alignas(64) static unsigned char raw[65];
  const int null = opc_conv_bn_relu_run(nullptr, packed, nullptr, nullptr);
  const float *const w = reinterpret_cast<const float *>(raw);
  const int odd = opc_conv_bn_relu_prepare(w, w, w, w, w, raw + 1);
  std::free(packed);
  return null == OPC_BAD_POINTER && odd == OPC_BAD_POINTER ? 0 : 1;
}
"""
    (tmp_path / "main.cpp").write_text(text, encoding="utf-8")
    code = folder / "conv_bn_relu.o"
    shell("g++", f"-std={standard}", *STRICT, f"-I{folder}", "main.cpp", code, "-o", "main", cwd=tmp_path)
    shell("./main", cwd=tmp_path)


def test_the_header_says_what_a_caller_must_know(folder: Path) -> None:
    header = (folder / "conv_bn_relu.h").read_text(encoding="utf-8")
    for part in (
        "x: f32[1][16][14][14], input (float)",
        "axes from slowest to fastest 0, 2, 3, 1; strides 12544, 4, 896, 64; 12,544 bytes",
        "aligned_alloc(64, opc_conv_bn_relu_packed_size())",
        "Thread safety:",
        "OPC_NO_PERMISSION",
    ):
        assert part in header


def test_amx_asks_for_its_tile_registers() -> None:
    text = cpuid.check("x86_64-unknown-linux-gnu", frozenset({"avx512f", "amx-tile"}))
    assert "i64 158, i64 4131, i64 18" in text
    assert "syscall" not in cpuid.check("x86_64-unknown-linux-gnu", frozenset({"avx512f"}))
    assert "syscall" not in cpuid.check("x86_64-apple-darwin", frozenset({"amx-tile"}))


def test_what_cannot_be_checked_is_said() -> None:
    assert cpuid.unchecked("x86_64-unknown-linux-gnu", frozenset({"avx2", "gfni"})) == ("gfni",)


@needs_gcc
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
@pytest.mark.parametrize(("processor", "status"), [("qemu64", cpuid.NO_FEATURE), ("max", cpuid.OK)])
def test_features_are_checked_at_call(tmp_path: Path, processor: str, status: int) -> None:
    function = driver.specialise(kernels_dsl.source("softmax"), "softmax.k", load("avx2"))
    unit = lower(*driver.build(function, load("avx2")).module.programs, load("avx2"))
    program = executable(tmp_path, unit, function, "gcc")
    written(tmp_path, function, data.arguments(function))
    done = subprocess.run(["qemu-x86_64", "-cpu", processor, program], cwd=tmp_path, check=False)
    assert done.returncode == status


# Other processors

CROSS = (
    ("conv_bn_relu", {"C": 8, "H": 9, "W": 7, "K": 24}, ("f32", "bf16", "f16")),
    ("softmax", {"M": 7, "N": 33}, ("f32", "bf16", "f16")),
    ("matmul", {"M": 9, "K": 17, "N": 20}, ("f32", "bf16", "f16", "i8")),
    ("gelu", {}, ("f32", "bf16", "f16")),
    ("max_pool2d", {}, ("f32", "bf16", "f16", "i8")),
)


def driver_in_c(unit: Unit, function: Function) -> str:
    """A program that reads every argument from a file, calls the kernel and writes the results."""
    prepare = [b.name for b in unit.prepare.arguments] if unit.prepare else []
    table = function.tensors()
    given = [a.tensor.name for a in function.args]
    lines = [f'#include "{unit.name}.h"', "#include <stdio.h>", "#include <stdlib.h>", "int main(void) {"]
    for name in (*given, *function.results):
        t = table[name]
        lines.append(f"  static _Alignas(64) char {name}_v[{t.size * t.dtype.bytes}];")
    for name in given:
        lines.append(f'  {{ FILE *f = fopen("{name}", "rb"); if (!f) return 9;')
        lines.append(f"    if (fread({name}_v, sizeof {name}_v, 1, f) != 1 || fclose(f)) return 9; }}")
    lines += [
        f"  void *packed = aligned_alloc(64, opc_{unit.name}_packed_size());",
        f"  void *workspace = aligned_alloc(64, opc_{unit.name}_workspace_size());",
        f"  int s = opc_{unit.name}_prepare({', '.join([f'(void *){n}_v' for n in prepare] + ['packed'])});",
        "  if (s) return s;",
    ]
    names = {aot.PACKED: "packed", aot.WORKSPACE: "workspace"}
    passed = ", ".join(names.get(n, f"(void *){n}_v") for n in aot.run_order(unit))
    lines.append(f"  s = opc_{unit.name}_run({passed});")
    for name in function.results:
        lines.append(f'  {{ FILE *f = fopen("{name}", "wb"); if (!f) return 9;')
        lines.append(f"    if (fwrite({name}_v, sizeof {name}_v, 1, f) != 1 || fclose(f)) return 9; }}")
    return "\n".join([*lines, "  return s;", "}", ""])


def executable(folder: Path, unit: Unit, function: Function, compiler: str) -> Path:
    """That program, linked with the kernel's object and with nothing that is looked for when it starts."""
    (folder / f"{unit.name}.o").write_bytes(aot.emit_object(unit))
    (folder / f"{unit.name}.h").write_text(emit_header(unit, function.tensors()), encoding="utf-8")
    (folder / "main.c").write_text(driver_in_c(unit, function), encoding="utf-8")
    command = [compiler, "-std=c11", *STRICT, "-static", "main.c", f"{unit.name}.o", "-o", "main"]
    shell(*command, cwd=folder)
    return folder / "main"


def written(folder: Path, function: Function, arrays: Mapping[str, Any]) -> None:
    table = function.tensors()
    for name, array in arrays.items():
        (folder / name).write_bytes(np.ascontiguousarray(physical(array, table[name])).tobytes())


def found(folder: Path, function: Function, name: str) -> Any:
    tensor = function.tensors()[name]
    result = empty(tensor)
    target = physical(result, tensor)
    target[...] = np.frombuffer((folder / name).read_bytes(), tensor.dtype.numpy).reshape(target.shape)
    return result


@pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or shutil.which(f"{AARCH64}-gcc") is None,
    reason="qemu-user and gcc-aarch64-linux-gnu are not installed",
)
@pytest.mark.parametrize(
    ("kernel", "sizes", "dtype"),
    [(k, s, d) for k, s, dtypes in CROSS for d in dtypes],
    ids=[f"{k}-{d}" for k, _, dtypes in CROSS for d in dtypes],
)
def test_on_aarch64(kernel: str, sizes: dict[str, int], dtype: str, tmp_path: Path) -> None:
    portable = load("portable")
    function = driver.specialise(
        kernels_dsl.source(kernel), f"{kernel}.k", portable, kernel, sizes, dtype, "nhwc"
    )
    built = driver.build(function, portable)
    unit = lower(*built.module.programs, portable, triple=AARCH64)
    program = executable(tmp_path, unit, function, f"{AARCH64}-gcc")
    arrays = data.arguments(function)
    written(tmp_path, function, arrays)
    expected = oracle(function, arrays)
    shell("qemu-aarch64", program, cwd=tmp_path)
    for name in function.results:
        report = check(found(tmp_path, function, name), expected[name])
        assert report.ok, f"{kernel} {dtype}: {name}: {report}"
