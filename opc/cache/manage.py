"""What users do with the cache as a whole: list it, check it, keep it small, empty it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from opc.cache import folder
from opc.cache.entry import Entry
from opc.cache.store import SUFFIX, TEMPORARY, read_file, remove

CAPACITY = 1 << 29  # bytes that gc leaves
_ABANDONED = 3600  # seconds after which a temporary file has lost its writer


class Listed(NamedTuple):
    """A file of the cache."""

    key: str
    path: str
    size: int
    used: float  # seconds since the epoch of the last use, to within a day


def entries() -> list[Listed]:
    """Every file that looks like an entry, the one used last first."""
    found = [
        Listed(name.removesuffix(SUFFIX), path, size, used)
        for name, path, size, used in _files()
        if name.endswith(SUFFIX)
    ]
    return sorted(found, key=lambda e: (-e.used, e.key))


def check(listed: Listed) -> Entry | None:
    """The entry in a listed file; None if it is damaged or was written by another version."""
    return read_file(listed.path, listed.key, touch=False)


def gc(capacity: int = CAPACITY, check_all: bool = False) -> list[Listed]:
    """Drop abandoned files, then entries used longest ago until at most ``capacity`` bytes remain.

    ``check_all`` reads every entry and drops the damaged ones too. Returns what was dropped.
    """
    now = time.time()
    for name, path, _, used in _files():
        if name.endswith(TEMPORARY) and now - used > _ABANDONED:
            remove(path)
    kept, dropped = 0, []
    for listed in entries():
        full = kept + listed.size > capacity
        if (full or (check_all and check(listed) is None)) and remove(listed.path):
            dropped.append(listed)
        else:
            kept += listed.size
    return dropped


def clear() -> int:
    """Drop everything that the cache has written; how many files that were."""
    ours = [path for name, path, _, _ in _files() if name.endswith((SUFFIX, TEMPORARY))]
    return sum(map(remove, ours))


def _files() -> Iterator[tuple[str, str, int, float]]:
    found = folder.find()
    if not found.usable:
        return
    try:
        with os.scandir(found.path) as scan:
            for item in scan:
                about = item.stat(follow_symlinks=False)
                yield item.name, item.path, about.st_size, about.st_mtime
    except OSError:
        return  # the folder went away, or a file while it was listed
