"""The key of a compilation: a hash of everything that decides which machine code comes out.

Nothing is parsed: a key takes a millisecond. What cannot be described exactly has no key and is not cached.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from opc.cache.digest import sha256
from opc.cpu import features
from opc.numerics import STRICT

if TYPE_CHECKING:
    from opc.machine.model import Machine

_VERSION = "1"
_PACKAGES = ("opc", "passes", "kernels_dsl")
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# As the lexer reads it: strings and comments are skipped, so that neither hides a `use` nor makes one up.
_USE = rb'\buse(?:\s|#[^\n]*\n)*"([^"]*)"|"[^"]*"|#[^\n]*'
_MOST_FILES = 1000


class Request(NamedTuple):
    """What a caller asked to compile, as given."""

    text: str | bytes
    file: str
    kernel: str | None = None
    sizes: Mapping[str, int | float] = {}
    dtype: str | None = None
    layout: str | None = None
    machine: str | Machine | None = None
    numerics: str = STRICT
    plans: str = ""
    half: str = ""
    wrt: tuple[str, ...] = ()
    mixed: str = ""
    donate: bool = False


def key_of(request: Request, *more: str) -> str | None:
    """The key of a request, and of ``more`` that decides the outcome; None where it cannot have one."""
    digest = sha256()
    try:
        for name, value in ingredients(request):
            digest.update(b"%d:%s%d:" % (len(name), name.encode(), len(value)))
            digest.update(value)
    except (OSError, ValueError):
        return None
    for other in more:
        digest.update(b"+%d:" % len(other.encode()) + other.encode())
    return digest.hexdigest()


def ingredients(request: Request) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of everything that decides. Raises OSError or ValueError for what cannot be read."""
    yield "version", _VERSION.encode()
    yield "compiler", compiler_stamp()
    yield "LLVM", llvm_stamp()
    yield "host", host()
    machine = request.machine or os.environ.get("OPC_MACHINE", "")
    if not isinstance(machine, str):
        yield "machine file", machine.text.encode()
    else:
        yield "machine", machine.encode()
        if not is_shipped(machine):
            yield "machine file", _bytes(machine)
    text = request.text.encode() if isinstance(request.text, str) else request.text
    yield "text", text
    yield from used_files(text, request.file)
    for name, given in (("kernel", request.kernel), ("dtype", request.dtype), ("layout", request.layout)):
        yield name, b"" if given is None else b"=" + given.encode()
    for size, number in sorted(request.sizes.items()):
        if type(number) not in (int, float, bool):
            raise ValueError(f"{size} is a {type(number).__name__}")
        yield size, repr(number).encode()
    yield "numerics", request.numerics.encode()
    yield "plans", request.plans.encode()
    yield "mixed", request.mixed.encode()
    yield "half", " ".join((request.half, *request.wrt)).encode()
    yield "donate", b"1" if request.donate else b""


def is_shipped(machine: str | Machine) -> bool:
    """Whether a machine is opc's own, by its name, and no file of the user's."""
    return isinstance(machine, str) and not machine.endswith(".toml")


@lru_cache(maxsize=1)
def compiler_stamp() -> bytes:
    """Changes when any file of opc does: paths, times and sizes, so that no file needs to be read."""
    listed = [_ROOT, sys.version]
    for package in _PACKAGES:
        listed += sorted(_stamps(os.path.join(_ROOT, package)))
    return "\n".join(listed).encode()


@lru_cache(maxsize=1)
def llvm_stamp() -> bytes:
    """Changes when another llvmlite, which carries LLVM, is installed. Finds it without importing it."""
    # As importlib.util.find_spec, which would have to be imported, does for a package not imported yet.
    found = (finder.find_spec("llvmlite", None) for finder in sys.meta_path)
    spec = next(filter(None, found), None)
    if spec is None or spec.origin is None:
        raise ValueError("llvmlite is not installed")
    folder = os.path.dirname(spec.origin)
    kept = (item for item in _stamps(os.path.join(folder, "binding")) if ".so" in item or "dylib" in item)
    return "\n".join((folder, *sorted(kept))).encode()


def _stamps(folder: str) -> Iterator[str]:
    with os.scandir(folder) as scan:
        for item in scan:
            if item.is_dir() and item.name != "__pycache__":
                yield from _stamps(item.path)
            elif item.is_file():
                about = item.stat()
                yield f"{item.path} {about.st_mtime_ns} {about.st_size}"


def host() -> bytes:
    """This computer's processor family and features, and whether it may use its tile registers."""
    listed = (os.uname().machine, str(features.amx_permitted()), *sorted(features.host_features()))
    return " ".join(listed).encode()


def used_files(text: bytes, file: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files that ``text`` uses, and of those that they use. Raises OSError."""
    folder = "" if file.startswith("<") or file == "-" else os.path.dirname(file)
    waiting, seen = [(text, folder)], set[str]()
    while waiting:
        text, folder = waiting.pop()
        for found in re.finditer(_USE, text) if b"use" in text else ():
            if found[1] is None:
                continue
            path = os.path.realpath(os.path.join(folder, os.fsdecode(found[1])))
            if path in seen:
                continue
            seen.add(path)
            if len(seen) > _MOST_FILES:
                raise ValueError("too many files are used")
            used = _bytes(path)
            yield os.path.basename(path), used
            waiting.append((used, os.path.dirname(path)))


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
