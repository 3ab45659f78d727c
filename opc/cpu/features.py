"""What this computer can run: CPU features without loading LLVM, permission for AMX, the machine to pick."""

from __future__ import annotations

import ctypes
import platform
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opc.machine.model import Machine

_CPUINFO = "/proc/cpuinfo"
# The kernel's names where they differ from LLVM's.
_NAMES = {
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "abm": "lzcnt",
    "avx512_bf16": "avx512bf16",
    "avx512_vnni": "avx512vnni",
    "amx_tile": "amx-tile",
    "amx_bf16": "amx-bf16",
    "amx_int8": "amx-int8",
    "asimd": "neon",
    "asimdhp": "fullfp16",
}
_PREFERRED = ("amx", "avx512bf16", "avx512", "avx2", "portable")
_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18


@lru_cache(maxsize=1)
def _described() -> dict[str, str]:
    """What the operating system says of the first processor; empty where it does not list it."""
    found: dict[str, str] = {}
    try:
        # Line by line: the kernel writes the rest, hundreds of processors, only when it is read.
        with open(_CPUINFO, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if not line.strip() and found:
                    break
                found[key.strip()] = value.strip()
    except OSError:
        pass
    return found


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """CPU features of this host by LLVM's names; empty where ``/proc/cpuinfo`` does not list them."""
    about = _described()
    flags = about.get("flags") or about.get("Features") or ""
    return frozenset(_NAMES.get(flag, flag) for flag in flags.split())


def host_model() -> str:
    """Which processor this is, for measurements that hold for no other."""
    about = _described()
    return "/".join(about.get(name, "") for name in ("vendor_id", "cpu family", "model name", "cache size"))


@lru_cache(maxsize=1)
def amx_permitted() -> bool:
    """Ask the kernel, once per process, for the tile registers. False where there are none."""
    if "amx-tile" not in host_features() or platform.machine() != "x86_64":
        return False
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    return (
        int(
            syscall(ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_REQUEST_PERMISSION), ctypes.c_long(_TILE_DATA))
        )
        == 0
    )


def missing(machine: Machine) -> list[str]:
    """Features that ``machine`` needs and this host lacks."""
    host = host_features()
    lacking = [name for name in machine.features if name not in host]
    if not lacking and any(name.startswith("amx") for name in machine.features) and not amx_permitted():
        return ["permission for amx-tile"]
    return lacking


def pick_machine() -> str:
    """Name of the best shipped machine that this host can run."""
    from opc import machine

    shipped = machine.names()
    for name in _PREFERRED:
        if name in shipped and not missing(machine.load(name)):
            return name
    return "portable"
