"""Kernels that come from the cache: the same bits, the same views, and no compiler in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels_dsl
import opc
from opc import driver
from opc.cache import folder, kernels, manage
from opc.errors import OpcError

ROOT = Path(__file__).resolve().parents[2]
TWICE = "kernel twice(x: T[N]) -> (y: T[N]) { example N = 40 y[i] = x[i] * 2 }"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv(folder.VARIABLE, str(path))
    return path


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Any:
    def forbid() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a hit must not compile")

        monkeypatch.setattr(driver, "specialise", refuse)
        monkeypatch.setattr(driver, "build", refuse)
        monkeypatch.setattr(driver, "target_machine", refuse)

    return forbid


def data(kernel: opc.Kernel, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {}
    for slot in kernel.signature.args:
        found[slot.name] = kernel.empty(slot.name)
        found[slot.name][...] = random.uniform(0.5, 1.5, slot.shape).astype(slot.dtype)
    return found


CASES = [
    ("conv_bn_relu", {"C": 8, "K": 16, "H": 9, "W": 9}, "f32", "nhwc"),
    ("conv_bn_relu", {"C": 3, "K": 8, "H": 9, "W": 9}, "bf16", "nchw"),
    ("softmax", {"M": 33, "N": 77}, "f32", None),
    ("argmax", {}, "f32", None),
    ("sgd", {}, "f32", None),
    ("matmul", {"M": 65, "N": 33, "K": 70}, "f16", None),
]


@pytest.mark.parametrize(("name", "sizes", "dtype", "layout"), CASES, ids=str)
def test_identical_bits(
    cache: Path, no_compiler: Any, name: str, sizes: dict[str, int], dtype: str, layout: str | None
) -> None:
    def compiled() -> opc.Kernel:
        return opc.compile(kernels_dsl.path(name), dtype=dtype, layout=layout, threads=2, **sizes)

    fresh = compiled()
    assert len(list(cache.iterdir())) == 1
    no_compiler()
    loaded = compiled()
    assert repr(loaded) == repr(fresh)
    assert loaded.doc == fresh.doc
    first, second = data(fresh), data(loaded)
    results = fresh.results(first), loaded.results(second)
    for name, array in results[0].items():
        assert array.tobytes() == results[1][name].tobytes()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes()


def test_views_and_saving(cache: Path, tmp_path: Path) -> None:
    fresh, loaded = (opc.compile(kernels_dsl.path("linear_bias_relu"), M=6, K=40, N=21) for _ in range(2))
    for view in ("tensor_ir", "program_ir", "llvm_ir", "asm", "listing"):
        assert getattr(loaded, view) == getattr(fresh, view), view
    loaded.save(tmp_path / "k.opck")
    a = data(fresh)
    assert opc.load(tmp_path / "k.opck")(**a).tobytes() == fresh(**a).tobytes()
    assert loaded.bind(w=a["w"], bias=a["bias"])(a["x"]).tobytes() == fresh(**a).tobytes()


def test_views_of_a_private_machine(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = (ROOT / "opc/machine/portable.toml").read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    source = kernels_dsl.path("relu")
    fresh, loaded = (opc.compile(source, machine=file) for _ in range(2))
    file.unlink()
    assert loaded.program_ir == fresh.program_ir
    with pytest.raises(OpcError):
        opc.compile(source, machine=file)


def test_damage_anywhere_compiles_again(cache: Path) -> None:
    opc.compile(TWICE)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert (opc.compile(TWICE)(np.ones(40, np.float32)) == 2).all()
        assert path.read_bytes() == whole, "the entry is mended"


def test_entries_of_another_computer_are_misses(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opc.compile(TWICE)
    (entry,) = manage.entries()
    assert kernels.find(entry.key) is not None
    monkeypatch.setattr(kernels, "host_features", frozenset)
    assert kernels.find(entry.key) is None


def test_npu_kernels_and_errors_are_not_kept(cache: Path) -> None:
    opc.compile(TWICE, machine="ascend910")
    with pytest.raises(OpcError):
        opc.compile("kernel k(x: T[N]) -> (y: T[N]) { y[i] = q[i] }", N=8)
    assert not cache.exists()


def test_unusable_folder_still_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder.VARIABLE, "/proc/no/such/place")
    assert opc.compile(TWICE).name == "twice"


SECOND = """
import sys
import numpy
import opc
opc.compile(sys.argv[1], N=16)
print(*sys.modules)
"""


def test_a_hit_imports_no_compiler(cache: Path) -> None:
    """What a second process must load decides how long its first kernel takes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SECOND, str(kernels_dsl.path("softmax"))]
    runs = [subprocess.run(command, env=env, capture_output=True, text=True, check=True) for _ in range(2)]
    first, second = ({m.partition(".")[0] if "." not in m else m for m in r.stdout.split()} for r in runs)
    heavy = {"llvmlite", "lark", "opc.lang", "opc.tensor.ir", "opc.program.ir", "opc.machine", "passes"}
    assert heavy - {"lark"} <= first
    assert not heavy & second
