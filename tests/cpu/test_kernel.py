"""Kernel objects: both entries, threads, reproducible code, feature checks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from opc.cpu import emit, features, threads
from opc.cpu.kernel import compile_kernel, lower
from opc.errors import MachineError, RuntimeCallError
from opc.machine import load, names
from opc.program.text import parse_program
from tests.cpu.native import agree, aligned, data, run_native

SAMPLE = (Path(__file__).parents[1] / "samples" / "conv_bn_relu.avx2.program").read_text(encoding="utf-8")
PREPARE = """program v1 scale machine avx2 {
  buffer w: f32[3,5]@gm param
  buffer p: f32[5,4]@gm packed at 64
  buffer t: f32[5,4]@l2 local
  buffer s: f32[5,3]@gm workspace
  copy_in.copy s[j, i] = w[i, j] for i<3, j<5
  copy_in.copy t[j, i] = s[j, i] for i<4, j<5 {fill=0.0}
  copy_out.copy p[j, i] = t[j, i] for i<4, j<5
}
"""
RUN = """program v1 scale machine avx2 {
  buffer x: f32[40,4]@gm input
  buffer p: f32[5,4]@gm packed at 64
  buffer y: f32[40,5]@gm output
  buffer h: f32[40,5]@gm workspace
  parallel i < 40 {
    cube.mma h[i, n] = x[i, k], p[n, k] for n<5, k<4 {init=0, chain=4}
  }
  parallel i < 40 {
    vector.add y[i, n] = h[39 - i, n], 1.0 for n<5
  }
}
"""


def test_sample_agrees_with_its_interpreter() -> None:
    for machine in ("avx2", "avx512", "portable"):
        agree(SAMPLE, machine)
        agree(SAMPLE, machine, integers=True)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_prepare_then_run_with_workspace(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "TEAM_WORK", 0)
    kernel = compile_kernel(parse_program(PREPARE), parse_program(RUN), load("avx2"))
    random = np.random.default_rng(0)
    w, x = random.standard_normal((3, 5), np.float32), random.standard_normal((40, 4), np.float32)
    y, packed, workspace = (
        np.zeros((40, 5), np.float32),
        aligned(kernel.packed_size),
        aligned(kernel.workspace_size(count)),
    )
    kernel.prepare([w.ctypes.data], packed.ctypes.data, workspace.ctypes.data, count)
    kernel.run([x.ctypes.data, y.ctypes.data], packed.ctypes.data, workspace.ctypes.data, count)
    assert np.allclose(y, (x[:, :3] @ w)[::-1] + 1, atol=1e-5)


def test_same_bits_at_any_thread_count() -> None:
    program = parse_program(SAMPLE)
    kernel = compile_kernel(None, program, load("avx2"))
    arrays = data(program, 3)
    one = run_native(kernel, arrays)["y"]
    for count in (2, 3, 4, 9):
        assert run_native(kernel, arrays, count)["y"].tobytes() == one.tobytes()


def test_concurrent_calls() -> None:
    program = parse_program(SAMPLE)
    kernel = compile_kernel(None, program, load("avx2"))
    inputs = [data(program, seed) for seed in range(4)]
    expected = [run_native(kernel, a)["y"] for a in inputs]
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(20):
            if run_native(kernel, inputs[n], 1 + n % 2)["y"].tobytes() != expected[n].tobytes():
                wrong.append(n)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_consecutive_sequential_statements_share_local_buffers() -> None:
    agree("""program v1 shared machine avx2 {
      buffer x: f32[20]@gm input
      buffer y: f32[20]@gm output
      buffer t: f32[20]@reg local
      copy_in.copy t[i] = x[i] for i<20
      loop k < 3 {
        vector.mul t[i] = t[i], 0.5 for i<20
      }
      copy_out.copy y[i] = t[i] for i<20
    }
    """)


def test_slots_chosen_at_run_time() -> None:
    agree("""program v1 slots machine avx2 {
      buffer x: f32[6,9]@gm input
      buffer y: f32[6,9]@gm output
      buffer t: f32[9]@l2 local slots 3 at 0, 64, 192
      buffer u: f32[9]@l2 local slots 2
      loop i < 6 {
        copy_in.copy t{i + 1}[j] = x[i, j] for j<9
        vector.neg u{i - 5}[j] = t{i - 2}[j] for j<9
        copy_out.copy y[i, j] = u{i + 1}[j] for j<9
      }
    }
    """)


def test_register_buffers_too_large_for_the_stack() -> None:
    agree("""program v1 large machine avx2 {
      buffer x: f32[3,20000]@gm input
      buffer y: f32[3,20000]@gm output
      buffer t: f32[20000]@reg local at 0
      buffer u: f32[16]@l2 local at 0
      loop i < 3 {
        copy_in.copy t[j] = x[i, j + 1] for j<20000 {fill=1.0}
        vector.copy u[j] = 7.0 for j<16
        vector.add t[j] = t[j], u[0] for j<20000
        copy_out.copy y[i, j] = t[j] for j<20000
      }
    }
    """)


def test_code_is_reproducible() -> None:
    units = [lower(None, parse_program(SAMPLE), load("avx2")) for _ in range(2)]
    assert units[0].text == units[1].text


def test_a_call_with_the_wrong_number_of_arrays() -> None:
    kernel = compile_kernel(None, parse_program(SAMPLE), load("avx2"))
    with pytest.raises(RuntimeCallError) as caught:
        kernel.run([0], 0)
    assert caught.value.code == "E0906"


def test_machines_of_other_kinds_are_refused() -> None:
    with pytest.raises(MachineError) as caught:
        lower(None, parse_program(SAMPLE), load("ascend910"))
    assert caught.value.code == "E0951"


def test_missing_features_are_a_diagnostic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "host_features", lambda: frozenset({"sse2"}))
    assert features.missing(load("avx2")) == ["avx2", "fma", "f16c"]
    assert features.pick_machine() == "portable"
    with pytest.raises(RuntimeCallError) as caught:
        compile_kernel(None, parse_program(SAMPLE), load("avx2"))
    assert caught.value.code == "E0952"


def test_tiles_need_the_kernels_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    amx = load("amx")
    monkeypatch.setattr(features, "host_features", lambda: frozenset(amx.features))
    assert features.amx_permitted.__wrapped__() in (True, False)  # the answer of the kernel below
    monkeypatch.setattr(features, "amx_permitted", lambda: False)
    assert features.missing(amx) == ["permission for amx-tile"]
    assert features.pick_machine() == "avx512bf16"
    with pytest.raises(RuntimeCallError, match="permission for amx-tile"):
        compile_kernel(None, parse_program(SAMPLE), amx)


def test_features_agree_with_llvm() -> None:
    import llvmlite.binding as llvm

    reported = {name for name, there in llvm.get_host_cpu_features().items() if there}
    needed = {f for name in names() for f in load(name).features}
    assert needed & features.host_features() == needed & reported


def test_threads_from_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPC_NUM_THREADS", "3")
    assert (threads.count(), threads.count(5)) == (3, 5)
    for bad in ("0", "-1", "many", "1.5", "1025", "9" * 5000):
        monkeypatch.setenv("OPC_NUM_THREADS", bad)
        with pytest.raises(RuntimeCallError) as caught:
            threads.count()
        assert caught.value.code == "E0913"


def test_without_openmp_phases_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "team_runtime", lambda: None)
    program = parse_program(SAMPLE)
    kernel = compile_kernel(None, program, load("avx2"))
    arrays = data(program, 1)
    assert np.array_equal(run_native(kernel, arrays, 4)["y"], run_native(kernel, arrays, 1)["y"])


def test_children_of_a_process_with_threads_do_not_hang() -> None:
    program = parse_program(SAMPLE)
    kernel = compile_kernel(None, program, load("avx2"))
    arrays = data(program, 1)
    expected = run_native(kernel, arrays, 2)["y"].tobytes()
    with warnings.catch_warnings():
        # Newer Pythons warn about forking with threads, which is the point here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if run_native(kernel, arrays, 2)["y"].tobytes() == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


BESIDE = """
import sys
sys.path.insert(0, {root!r})
{imports}
import torch
from opc.cpu import threads
from opc.cpu.kernel import compile_kernel
from opc.machine import load
from opc.program.text import parse_program
from tests.cpu.native import data, run_native
from tests.cpu.test_kernel import SAMPLE
program = parse_program(SAMPLE)
kernel = compile_kernel(None, program, load("avx2"))
arrays = data(program, 1)
expected = run_native(kernel, arrays, 1)["y"].tobytes()
x = torch.ones(300, 300)
for _ in range(20):
    assert run_native(kernel, arrays, 2)["y"].tobytes() == expected
    assert float((x @ x).sum()) == 300.0**3
print(threads.runtime().name)
"""


@pytest.mark.parametrize("first", ["torch", "opc"])
def test_beside_torch_in_one_process(first: str) -> None:
    pytest.importorskip("torch")
    root = str(Path(__file__).parents[2])
    imports = "" if first == "torch" else "from opc.cpu import threads\nthreads.runtime()"
    code = BESIDE.format(root=root, imports=imports)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("torch" in done.stdout) == (first == "torch")
