"""The kernels of a pair in a C program: one opaque buffer between them, in one process with both objects."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import opc
from opc import cli

SOURCE = """
kernel dense(x: T[M, K], param w: T[K, N], bias: f32[N]) -> (saved: T[M, N]) {
  example M = 4, K = 8, N = 8
  a[m, n] = exp(sum[k](x[m, k] * w[k, n]))
  saved[m, n] = a[m, n] * bias[n]
}
kernel g = grad(dense, wrt=[x, w, bias])
"""
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "g_fwd.h"
#include "g_bwd.h"
static void fill(float *a, size_t n, unsigned seed) {
  for (size_t i = 0; i < n; i++) a[i] = (float)((i * 7 + seed) % 31) / 64.0f - 0.25f;
}
int main(void) {
  static float x[4 * 8], w[8 * 8], bias[8], y[4 * 8], d_y[4 * 8], d_x[4 * 8], d_w[8 * 8], d_bias[8];
  fill(x, 32, 1); fill(w, 64, 2); fill(bias, 8, 3); fill(d_y, 32, 4);
  void *p = aligned_alloc(64, opc_g_fwd_packed_size()), *q = aligned_alloc(64, opc_g_bwd_packed_size());
  void *s = aligned_alloc(64, opc_g_fwd_workspace_size()), *t = aligned_alloc(64, opc_g_bwd_workspace_size());
  void *saved = aligned_alloc(64, opc_g_saved_size());
  if (opc_g_fwd_prepare(w, p) || opc_g_bwd_prepare(w, q)) return 1;
  if (opc_g_fwd_run(x, bias, p, y, NULL, s) != OPC_BAD_POINTER) return 2;
  if (opc_g_fwd_run(x, bias, p, y, saved, s) || opc_g_bwd_run(saved, d_y, q, d_x, d_w, d_bias, t)) return 3;
  fwrite(y, sizeof y, 1, stdout); fwrite(d_x, sizeof d_x, 1, stdout); fwrite(d_w, sizeof d_w, 1, stdout);
  fwrite(d_bias, sizeof d_bias, 1, stdout);
  return 0;
}
"""


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    n = np.arange(np.prod(shape))
    return (((n * 7 + seed) % 31).astype(np.float32) / 64 - np.float32(0.25)).reshape(shape)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_step_in_c_has_the_bits_of_one_in_python(tmp_path: Path) -> None:
    (tmp_path / "f.k").write_text(SOURCE, encoding="utf-8")
    command = ["compile", str(tmp_path / "f.k"), "--kernel", "g", "--target", "cpu", "--emit", "obj,header"]
    assert cli.run([*command, "-o", str(tmp_path)]) == 0
    (tmp_path / "main.c").write_text(PROGRAM, encoding="utf-8")
    folders = [tmp_path / f"g.{half}" for half in ("fwd", "bwd")]
    objects = [f / f"g_{half}.o" for f, half in zip(folders, ("fwd", "bwd"), strict=True)]
    build = [
        "gcc",
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        *(f"-I{f}" for f in folders),
        "main.c",
        *objects,
    ]
    subprocess.run([*map(str, build), "-lm", "-o", "main"], cwd=tmp_path, check=True, timeout=60)
    raw = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, timeout=60).stdout

    pair = opc.grad(SOURCE)
    x, w, bias, dy = (numbers(s, i) for i, s in enumerate(((4, 8), (8, 8), (8,), (4, 8)), start=1))
    y, saved = pair.fwd(x, w, bias)
    assert raw == b"".join(a.tobytes() for a in (y, *pair.bwd(saved, dy)))


def test_the_header_explains_the_buffer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.k").write_text(SOURCE, encoding="utf-8")
    command = ["compile", str(tmp_path / "f.k"), "--kernel", "g.fwd", "--target", "cpu", "--emit", "header"]
    assert cli.run([*command, "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "saved " in shown
    assert "g saves " in shown
    header = (tmp_path / "g.fwd" / "g_fwd.h").read_text(encoding="utf-8")
    assert "size_t opc_g_saved_size(void);" in header
    assert "must stay in place, unchanged, until backward has run." in header
    assert "float *saved_, void *saved, void *workspace" in header, (
        "a tensor of that name is another argument"
    )
    assert all(len(line) <= 120 for line in header.splitlines() if line.startswith(" *"))
