"""Saved pairs: an archive that holds two saved kernels and says what passes between them."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

from opc import archive
from opc.build import Build
from opc.files import read_bytes, write_atomic
from opc.tensor.ir import Tensor
from opc.tensor.saved import Half, SavedLayout

FORMAT = "opc-pair v1"
_FORWARD, _BACKWARD = "forward.opc", "backward.opc"
_LIMIT = 256 << 20  # bytes of one unpacked part


def save(name: str, forward: Build, backward: Build, layout: SavedLayout, path: str | Path) -> None:
    """Write both kernels to ``path``, whole or not at all. Raises RuntimeCallError E0923."""
    manifest = {
        "format": FORMAT,
        "name": name,
        "kept": [t.name for t in layout.kept],
        "made": [t.name for t in layout.made],
    }
    parts: dict[str, str | bytes] = {
        "manifest.json": json.dumps(manifest, indent=2),
        _FORWARD: archive.packed(forward),
        _BACKWARD: archive.packed(backward),
    }
    write_atomic(Path(path), archive.zipped(parts))


def read(path: str | Path) -> tuple[str, Build, Build]:
    """The name and the builds that ``save`` wrote. Raises RuntimeCallError E0914, E0920."""
    raw = read_bytes(str(path))
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as parts:
            if any(item.file_size > _LIMIT for item in parts.infolist()):
                raise ValueError("a part is too large")
            manifest = json.loads(parts.read("manifest.json"))
            if manifest.get("format") != FORMAT:
                raise ValueError(f"its format is {manifest.get('format')}, this opc reads {FORMAT}")
            name = str(manifest["name"])
            forward = archive.unpacked(parts.read(_FORWARD), path)
            backward = archive.unpacked(parts.read(_BACKWARD), path)
        layout = _layout(forward, backward, manifest["kept"], manifest["made"])
    except (
        zipfile.BadZipFile,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        RuntimeError,
    ) as problem:
        raise archive.unusable(path, f"it is no saved pair ({problem})") from None
    halves = (Half(name, first, layout, forward.source) for first in (True, False))
    return name, replace(forward, half=next(halves)), replace(backward, half=next(halves))


def _layout(forward: Build, backward: Build, kept: list[str], made: list[str]) -> SavedLayout:
    """What passes between the kernels. Raises ValueError unless both mean the same by it."""
    written = forward.source.tensors()
    read = {a.tensor.name: a.tensor for a in backward.source.args}
    for name in (*kept, *made):
        if written.get(name) != read.get(name) or name not in read:
            raise ValueError(f"its kernels disagree about '{name}'")
    if not set(made) <= set(forward.source.results):
        raise ValueError("its forward kernel lacks a result")

    def tensors(names: list[str]) -> tuple[Tensor, ...]:
        return tuple(written[n] for n in names)

    return SavedLayout(tensors(kept), tensors(made))
