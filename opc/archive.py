"""Saved kernels: one archive of canonical texts with a checksum each, and nothing executable."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opc import machine as machines
from opc.build import Build, text_of, verify
from opc.errors import IRError, OpcError, RuntimeCallError, fail
from opc.files import read_bytes, write_atomic
from opc.pipeline import NUMERICS, STRICT

if TYPE_CHECKING:
    from opc.program.ir import Module
    from opc.tensor.ir import Function

FORMAT = "opc-kernel v2"
_PARTS = ("source.tensor", "function.tensor", "module.program", "machine.toml")
_LIMIT = 64 << 20  # bytes of one unpacked part
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp keeps archives reproducible


def save(build: Build, path: str | Path) -> None:
    """Write the kernel's texts to ``path``, whole or not at all. Raises RuntimeCallError E0923."""
    write_atomic(Path(path), packed(build))


def packed(build: Build) -> bytes:
    """The kernel's texts as one archive."""
    parts = {
        "source.tensor": text_of(build.source),
        "function.tensor": text_of(build.function),
        "module.program": text_of(build.module),
        # A machine file may be the user's own, and what opc ships may change.
        "machine.toml": build.machine.text,
    }
    manifest = {
        "format": FORMAT,
        "numerics": build.numerics,
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()},
    }
    return zipped({"manifest.json": json.dumps(manifest, indent=2), **parts})


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    """An archive of those files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return buffer.getvalue()


def read(path: str | Path) -> Build:
    """The build that ``save`` wrote. Raises RuntimeCallError E0914, E0920."""
    return unpacked(read_bytes(str(path)), path)


def unpacked(raw: bytes, path: str | Path) -> Build:
    """The build that ``packed`` gave, from the file ``path``. Raises RuntimeCallError E0914."""
    try:
        manifest, parts = _parts(raw)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RecursionError, RuntimeError) as problem:
        raise unusable(path, f"it is no saved kernel ({problem})") from None
    if manifest.get("format") != FORMAT:
        raise unusable(path, f"its format is {manifest.get('format')}, this opc reads {FORMAT}")
    numerics = manifest.get("numerics", STRICT)
    if numerics not in NUMERICS:
        raise unusable(path, f"its numerics are {numerics}, this opc knows {', '.join(NUMERICS)}")
    for name, text in parts.items():
        if hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"].get(name):
            raise unusable(path, f"its part {name} is damaged")
    try:
        machine = machines.parse(parts["machine.toml"], "machine.toml")
        source, function, module = _parse(parts)
        # Checksums find damage, not malice: no program that leaves its buffers may reach the back end.
        for ir in (source, function, module):
            verify(ir, machine, "expanded")
        _agree(source, module)
    except OpcError as error:
        raise unusable(path, error.diagnostics[0].message) from None
    return Build(machine, source, function, module, module, (), numerics)


def _parts(raw: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in ("manifest.json", *_PARTS):
            if archive.getinfo(name).file_size > _LIMIT:
                raise ValueError(f"its part {name} is larger than {_LIMIT >> 20} MiB")
        manifest = json.loads(archive.read("manifest.json"))
        if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256"), dict):
            raise ValueError("its manifest is damaged")
        return manifest, {name: archive.read(name).decode("utf-8") for name in _PARTS}


def _parse(parts: dict[str, str]) -> tuple[Function, Function, Module]:
    from opc.program.text import parse_module
    from opc.tensor.text import parse_function

    source = parse_function(parts["source.tensor"], "source.tensor")
    function = parse_function(parts["function.tensor"], "function.tensor")
    return source, function, parse_module(parts["module.program"], "module.program")


def _agree(source: Function, module: Module) -> None:
    """Refuse programs whose buffers are not the arrays a call hands over. Raises IRError E0550."""
    tensors = source.tensors()
    packed = {b.name: b for b in module.prepare.buffers if b.kind == "packed"}
    for b in (b for program in module.programs for b in program.buffers):
        if b.kind in ("local", "workspace"):
            continue
        if b.kind == "packed":
            right = packed.get(b.name) == replace(b, lender="")  # of which prepare knows nothing
        else:
            t = tensors.get(b.name)
            # Programs may view an array over other axes; what counts is that they stay inside its bytes.
            right = t is not None and (t.size, t.dtype) == (prod(b.shape), b.dtype)
        if not right:
            raise fail(IRError, "E0550", f"buffer '{b.name}' is not the kernel's")


def unusable(path: str | Path, reason: str) -> OpcError:
    """The error for a file that cannot be loaded."""
    return fail(
        RuntimeCallError,
        "E0914",
        f"cannot load '{path}': {reason}",
        help="save the kernel again, or compile its source",
    )
