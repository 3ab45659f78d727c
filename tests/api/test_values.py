"""Values that a Python caller may get wrong, and kernels without results."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opc
from opc import machine
from opc.archive import FORMAT

UPDATE = "kernel f(inout x: T[N]) -> () { example N = 4 x[i] = x[i] + 1 }"


def test_kernel_that_only_updates() -> None:
    kernel = opc.compile(UPDATE)
    x = np.zeros(4, np.float32)
    assert kernel(x) is None
    kernel.bind()(x)
    assert x.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("layout", 5, "E0318"),
        ("kernel", 5, "E0233"),
        ("machine", 5, "E0601"),
        ("threads", "2", "E0913"),
        ("threads", 1.5, "E0913"),
        ("threads", True, "E0913"),
    ],
)
def test_setting_of_a_wrong_type(setting: str, value: Any, code: str) -> None:
    with pytest.raises(opc.OpcError) as caught:
        opc.compile(UPDATE, **{setting: value})
    assert caught.value.code == code


def test_machine_as_a_path() -> None:
    file = Path(machine.__file__).parent / "portable.toml"
    x = np.zeros(4, np.float32)
    opc.compile(UPDATE, machine=file)(x)
    assert x.sum() == 4


def test_a_saved_kernel_brings_its_machine(tmp_path: Path) -> None:
    text = (Path(machine.__file__).parent / "portable.toml").read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(text.replace('name = "portable"', 'name = "mine"'), encoding="utf-8")
    opc.compile(UPDATE, machine=file).save(tmp_path / "kernel.opc")
    file.unlink()
    loaded = opc.load(tmp_path / "kernel.opc")
    assert loaded.machine == "mine"
    x = np.zeros(4, np.float32)
    loaded(x)
    assert x.sum() == 4


@pytest.mark.parametrize("dtype", [">f4", "O", "c8", "U1"])
def test_help_names_a_conversion_that_works(dtype: str) -> None:
    with pytest.raises(opc.RuntimeCallError) as caught:
        opc.compile(UPDATE)(np.zeros(4, dtype))
    assert caught.value.help == 'convert it: array.astype("float32")'


@pytest.mark.parametrize("manifest", ["null", "[]", "{}", '{"sha256": 3}', "[" * 100_000])
def test_archive_with_a_strange_manifest(manifest: str, tmp_path: Path) -> None:
    saved = tmp_path / "kernel.opc"
    opc.compile(UPDATE).save(saved)
    with zipfile.ZipFile(saved) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w") as archive:
        for name, data in {**parts, "manifest.json": manifest.encode()}.items():
            archive.writestr(name, data)
    with pytest.raises(opc.RuntimeCallError) as caught:
        opc.load(saved)
    assert caught.value.code == "E0914"


def test_archive_that_unpacks_to_too_much(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps({"format": FORMAT}) + " " * (65 << 20))
    (tmp_path / "kernel.opc").write_bytes(buffer.getvalue())
    with pytest.raises(opc.RuntimeCallError) as caught:
        opc.load(tmp_path / "kernel.opc")
    assert caught.value.code == "E0914"


@pytest.mark.parametrize(
    ("old", "new"),
    [(r"buffer x: f32\[4\]", "buffer x: f32[400]"), (r"<4", "<40000"), (r" x\[", " x[9000 + ")],
)
def test_forged_archive(old: str, new: str, tmp_path: Path) -> None:
    """Programs that would leave their buffers are refused even when every checksum is right."""
    saved = tmp_path / "kernel.opc"
    opc.compile(UPDATE, machine="portable").save(saved)
    with zipfile.ZipFile(saved) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    parts["module.program"], count = re.subn(old, new, parts["module.program"])
    assert count
    manifest = json.loads(parts["manifest.json"])
    manifest["sha256"]["module.program"] = hashlib.sha256(parts["module.program"].encode()).hexdigest()
    parts["manifest.json"] = json.dumps(manifest)
    with zipfile.ZipFile(saved, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(opc.RuntimeCallError) as caught:
        opc.load(saved)
    assert caught.value.code == "E0914"
