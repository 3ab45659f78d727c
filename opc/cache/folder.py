"""Where the cache lies, and whether it may be used."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

VARIABLE = "OPC_CACHE_DIR"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Folder(NamedTuple):
    """The cache's folder ("" where caching is switched off), and why it is not used ("" where it is)."""

    path: str
    problem: str = ""

    @property
    def usable(self) -> bool:
        return not self.problem


def find() -> Folder:
    """The folder of this process: ``OPC_CACHE_DIR``, else ``opc`` in the user's cache folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen in ("", "off"):
        return Folder("", f"switched off by {VARIABLE}")
    path = os.path.abspath(os.path.expanduser(chosen)) if chosen else _default()
    if not path:
        return Folder("", f"there is no home folder: set {VARIABLE}")
    return Folder(path, _problem(path))


def make(path: str) -> None:
    """Create the folder, for its owner alone. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path, stat.S_IRWXU)
    except FileExistsError:  # another process was first, perhaps another user's
        if _problem(path):
            raise


def _default() -> str:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the convention says that relative paths are ignored
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return ""
        base = os.path.join(home, ".cache")
    return os.path.join(base, "opc")


def _problem(path: str) -> str:
    """Why entries are neither read nor written there; a folder that does not exist yet is no problem."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as problem:
        return f"cannot be used: {getattr(problem, 'strerror', None) or problem}"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    # Entries are code that will run: whoever may write them may run anything as this user.
    if found.st_uid != os.geteuid():
        return "ignored, because it belongs to another user"
    if found.st_mode & _OTHERS_WRITE:
        return f"ignored, because others may write to it: chmod go-w {path}"
    return ""
