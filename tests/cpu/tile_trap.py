"""AMX machine code on any x86-64 host: tile instructions trap, and a handler in C executes them."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from opc.cpu import features

KINDS = (
    "ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tileloaddt1", "tilestored", "tdpbf16ps", "tdpbssd",
)  # fmt: skip
TILE_FEATURES = frozenset({"amx-tile", "amx-bf16", "amx-int8"})
_SOURCE = Path(__file__).with_name("tile_trap.c")


def available() -> bool:
    """Whether this host can trap tile instructions: x86-64 without AMX, and a C compiler."""
    lacks = "amx-tile" not in features.host_features()
    return platform.machine() == "x86_64" and lacks and shutil.which("gcc") is not None


@dataclass
class Trapped:
    """What ran: executions by instruction, and what a processor with AMX would have refused."""

    counts: dict[str, int]
    faults: int = 0
    message: str = ""


@cache
def library(folder: Path) -> ctypes.CDLL:
    """The trap, compiled into ``folder``."""
    target = folder / "tile_trap.so"
    command = ["gcc", "-O2", "-mavx2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(target), str(_SOURCE)], check=True)
    trap = ctypes.CDLL(str(target))
    trap.trap_message.restype = ctypes.c_char_p
    trap.trap_count.restype = trap.trap_faults.restype = trap.trap_record.restype = ctypes.c_uint64
    return trap


@contextmanager
def trapping(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Trapped]:
    """Within, this host passes for one with AMX. The record is filled in at the end."""
    trap = library(folder)
    host = features.host_features() | TILE_FEATURES
    patch.setattr(features, "host_features", lambda: host)
    patch.setattr(features, "amx_permitted", lambda: True)
    found = Trapped({})
    assert trap.trap_install() == 0
    try:
        yield found
    finally:
        trap.trap_remove()
        found.counts = {name: trap.trap_count(i) for i, name in enumerate(KINDS)}
        found.faults, found.message = trap.trap_faults(), trap.trap_message().decode()
