"""``opc doctor``: what this computer offers, and what is missing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib import metadata

from opc import __version__, machine
from opc.cache import folder
from opc.cpu import features, threads
from opc.errors import OpcError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(options: argparse.Namespace) -> int:
    """Print one line per finding."""
    found = findings()
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        width = max(map(len, found))
        sys.stdout.writelines(f"{name.ljust(width)}  {value}\n" for name, value in found.items())
    return 0


def findings() -> dict[str, str]:
    """Versions, CPU features, permission for tiles, threads, and every CPU machine that runs here."""
    found = {
        "opc": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "LLVM": _llvm(),
    }
    found |= {name: _version(name) for name in ("numpy", "llvmlite", "ml_dtypes", "torch")}
    found["AMX permission"] = "granted" if features.amx_permitted() else "not available"
    found["OpenMP"] = _openmp()
    found["threads"] = _threads()
    found["cache"] = _cache()
    found["machine"] = os.environ.get("OPC_MACHINE") or features.pick_machine()
    for name in machine.names():
        described = machine.load(name)
        if described.kind == "cpu":
            lacking = features.missing(described)
            found[f"machine {name}"] = f"lacks {', '.join(lacking)}" if lacking else "runs here"
        else:
            found[f"machine {name}"] = "simulated"
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _llvm() -> str:
    import llvmlite.binding as llvm

    return ".".join(map(str, llvm.llvm_version_info))


def _openmp() -> str:
    runtime = threads.runtime()
    return runtime.name if runtime is not None else "none found: kernels run on one thread"


def _cache() -> str:
    found = folder.find()
    if not found.usable:
        return f"{found.path} {found.problem}".lstrip()
    place = found.path
    while not os.path.isdir(place):  # made on first use
        place = os.path.dirname(place)
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as problem:
        return f"{found.path} cannot be written: {problem.strerror}"
    return found.path


def _threads() -> str:
    try:
        return f"{threads.count()} of {os.cpu_count()}"
    except OpcError as error:
        return error.diagnostics[0].message
