"""Reading sources and writing artefacts: whole or not at all, with coded errors."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from opc.errors import RuntimeCallError, fail

if TYPE_CHECKING:
    from pathlib import Path

SOURCE_LIMIT = 4 << 20  # bytes of one source text


def read_bytes(path: str) -> bytes:
    """The bytes of a file, or of standard input for ``-``. Raises RuntimeCallError (E0920, E0922)."""
    try:
        data = sys.stdin.buffer.read(SOURCE_LIMIT + 1) if path == "-" else _read(path)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise fail(RuntimeCallError, "E0920", f"cannot read '{path}': {reason}") from None
    if len(data) > SOURCE_LIMIT:
        raise fail(RuntimeCallError, "E0922", f"'{path}' is larger than {SOURCE_LIMIT >> 20} MiB")
    return data


def read_text(path: str) -> str:
    """``read_bytes`` as text. Raises RuntimeCallError E0921 if it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as problem:
        message = f"'{path}' is not UTF-8 text: byte {problem.start} is invalid"
        raise fail(RuntimeCallError, "E0921", message, help="save it as UTF-8") from None


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(SOURCE_LIMIT + 1)


def write_atomic(path: Path, data: str | bytes) -> Path:
    """Put ``data`` at ``path`` in one step: readers see the old file or the new, never a part.

    Raises RuntimeCallError E0923 when the folder cannot be made or written.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, temporary, raw)
    except OSError as problem:
        raise fail(
            RuntimeCallError,
            "E0923",
            f"cannot write '{path}': {problem.strerror}",
            help="choose another folder with -o DIR",
        ) from None
    return path


def _replace(path: Path, temporary: Path, raw: bytes) -> None:
    try:
        with open(temporary, "xb") as file:
            file.write(raw)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: nothing half-written may stay behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
