"""The file an internal error leaves behind: enough to see it again, nothing else of the computer."""

from __future__ import annotations

import hashlib
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from opc import __version__
from opc.errors import OpcError
from opc.files import read_text, write_atomic


def write_reproducer(problem: Exception, arguments: Sequence[str], source: str | None) -> Path:
    """Write command line, versions, traceback and input to ``opc-crash-<hash>.txt``; its path."""
    trace = "".join(traceback.format_exception(problem))
    parts = [
        f"opc {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "command: opc " + shlex.join(arguments),
        trace,
    ]
    if source not in (None, "-"):
        try:
            parts.append(f"input {source}:\n{read_text(str(source))}")
        except OpcError as error:
            parts.append(str(error))
    text = "\n".join(parts)
    name = f"opc-crash-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
    try:
        return write_atomic(Path(name), text)
    except OpcError:
        return write_atomic(Path(tempfile.gettempdir()) / name, text)
