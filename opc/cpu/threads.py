"""An OpenMP runtime to run parallel phases on: the one already in this process, so that pools are not
doubled.
"""

from __future__ import annotations

import ctypes
import os
import re
from functools import lru_cache

from opc.errors import RuntimeCallError, fail

NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
_MAPPED = r"/\S*/lib(?:gomp|iomp5|omp)[-.\w]*\.so[.\d]*$"
MOST = 1024
_VARIABLE = "OPC_NUM_THREADS"


class Runtime:
    """The three OpenMP entries as addresses that emitted code reads."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        self._library = library
        found = [ctypes.cast(getattr(library, n), ctypes.c_void_p).value for n in NAMES]
        self.table = (ctypes.c_void_p * len(NAMES))(*found)

    @property
    def address(self) -> int:
        return ctypes.addressof(self.table)


def _open(name: str) -> Runtime | None:
    try:
        library = ctypes.CDLL(name)
        return Runtime(library, name) if all(hasattr(library, n) for n in NAMES) else None
    except OSError:
        return None


def _mapped() -> list[str]:
    """OpenMP libraries that this process has loaded already."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            text = maps.read()
    except OSError:
        return []
    return sorted(set(re.findall(_MAPPED, text, re.MULTILINE)))


_shared: list[Runtime] = []


def share(folder: str) -> bool:
    """From now on use the runtime that lies under ``folder``, if it is loaded: waiting threads of a second pool
    would take processors from the first.
    """
    for path in _mapped():
        found = _open(path) if path.startswith(folder.rstrip("/") + "/") else None
        if found is not None:
            _shared[:] = [found]
            return True
    return False


def runtime() -> Runtime | None:
    """An OpenMP runtime, preferring one already loaded; None where there is none (phases then run alone)."""
    return _shared[0] if _shared else _first()


@lru_cache(maxsize=1)
def _first() -> Runtime | None:
    for path in _mapped():
        found = _open(path)
        if found is not None:
            return found
    return _open("libgomp.so.1")


@lru_cache(maxsize=1)
def _watch_forks() -> list[int]:
    """Ids of the processes that forked this one after it had used threads."""
    forked: list[int] = []
    os.register_at_fork(after_in_child=lambda: forked.append(os.getppid()))
    return forked


def team_runtime() -> Runtime | None:
    """The runtime for a call on several threads; None in the child of a process that may have had a team,
    because a copied pool of threads that no longer exist would never answer.
    """
    return None if _watch_forks() else runtime()


def available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count(threads: int | None = None) -> int:
    """Threads of a call: the argument, else OPC_NUM_THREADS, else every available processor."""
    if threads is None:
        text = os.environ.get(_VARIABLE, "")
        if not text:
            return available()
        if not text.isascii() or not text.isdigit() or len(text) > len(str(MOST)):
            raise _bad(f"{_VARIABLE} is '{text[:40]}'")
        threads = int(text)
    if type(threads) is not int or not 1 <= threads <= MOST:
        raise _bad(f"{threads} threads were asked for")
    return threads


def _bad(message: str) -> Exception:
    return fail(RuntimeCallError, "E0913", message, help=f"ask for a whole number from 1 to {MOST}")
