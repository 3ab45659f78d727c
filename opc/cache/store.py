"""Entries in a folder, one file each: read if they are sound, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from opc.cache import folder
from opc.cache.entry import Entry, pack, unpack

SUFFIX = ".opc"
_LARGEST = 1 << 28  # bytes of one entry
TEMPORARY = ".tmp"
_DAY = 86400
_STRANGE = (ValueError, SyntaxError, KeyError, TypeError, AttributeError, RecursionError, MemoryError)
_HEX = frozenset("0123456789abcdef")


def read(key: str) -> Entry | None:
    """The entry of that key; None where there is none that can be trusted to be what was written."""
    found = folder.find()
    return read_file(_path(found.path, key), key) if found.usable else None


def write(key: str, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> bool:
    """Keep an entry; False where the folder or the disk does not take it."""
    found = folder.find()
    if not found.usable:
        return False
    try:
        if not os.path.isdir(found.path):
            folder.make(found.path)
        _replace(_path(found.path, key), pack({"key": key, **manifest}, parts))
    except (OSError, ValueError):
        return False
    if key[0] == "0":  # listing all files costs as much as writing some: one write in sixteen does it
        from opc.cache.manage import gc

        gc()
    return True


def _path(root: str, key: str) -> str:
    assert _HEX.issuperset(key), "a key is a hexadecimal digest"
    return os.path.join(root, key + SUFFIX)


def read_file(path: str, key: str, touch: bool = True) -> Entry | None:
    """The entry of that key in a file; None if it is damaged or another version wrote it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
            # The time of last use, for gc. Once a day is enough and spares the disk.
            if touch and time.time() - os.fstat(file.fileno()).st_mtime > _DAY:
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
    except OSError:
        return None
    try:
        entry = unpack(data) if len(data) <= _LARGEST else None
    except _STRANGE:
        return None  # the hash is right, the content another version's
    return entry if entry is not None and entry.manifest.get("key") == key else None


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}{TEMPORARY}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: nothing half-written may stay behind
        remove(temporary)
        raise


def remove(path: str) -> bool:
    """Delete a file; False if it cannot be, or is gone."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
