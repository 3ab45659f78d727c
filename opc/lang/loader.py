"""Which kernel a name means: those of the file, of the files it uses, then the operator library."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from opc.errors import LanguageError
from opc.lang.messages import error, shown
from opc.lang.parser import parse
from opc.lang.syntax import File, Kernel, Use


class Found(NamedTuple):
    """A kernel and the file that declares it."""

    kernel: Kernel
    file: File


@cache
def library_file(name: str) -> File | None:
    """The operator library's file for operator ``name``, parsed once."""
    import kernels_dsl

    if name not in kernels_dsl.names():
        return None
    return parse(kernels_dsl.source(name), f"kernels_dsl/{name}.k")


class Program:
    """A root file with everything that it uses, loaded."""

    def __init__(self, root: File, use_path: str | os.PathLike[str] | None = None) -> None:
        self.root = root
        self.checked: set[int] = set()  # ids of the files that passed the checker
        self._files: dict[str, File] = {}
        self._used: dict[int, list[File]] = {}
        folder = os.fspath(use_path) if use_path is not None else _folder(root.name)
        self._load(root, folder, [os.path.realpath(os.path.join(folder, os.path.basename(root.name)))])

    def _load(self, file: File, folder: str, chain: list[str]) -> None:
        used: list[File] = []
        self._used[id(file)] = used
        for use in file.uses:
            path = os.path.join(folder, use.path)
            real = _real(file, use, path)
            if real in chain:
                raise _cycle(file, use, [*chain[chain.index(real) :], real])
            if real not in self._files:
                name = os.path.normpath(os.path.join(_folder(file.name), use.path))
                self._files[real] = parse(_read(file, use, path), name)
                self._load(self._files[real], os.path.dirname(path), [*chain, real])
            used.append(self._files[real])

    def find(self, file: File, name: str) -> Found | None:
        """The kernel that ``name`` means in ``file``."""
        for candidate in (file, *self._used.get(id(file), ())):
            for kernel in candidate.kernels:
                if kernel.name == name:
                    return Found(kernel, candidate)
        shipped = library_file(name)
        if shipped is None:
            return None
        return next((Found(k, shipped) for k in shipped.kernels if k.name == name), None)

    def known(self, file: File) -> list[str]:
        """Names of all kernels that ``file`` can call."""
        import kernels_dsl

        own = [k.name for f in (file, *self._used.get(id(file), ())) for k in f.kernels]
        return sorted({*own, *kernels_dsl.names()})


def _folder(name: str) -> str:
    return "" if name.startswith("<") or name == "-" else os.path.dirname(name)


def _real(file: File, use: Use, path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        raise _unreadable(file, use, "not a usable path") from None


def _read(file: File, use: Use, path: str) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except (OSError, ValueError) as problem:
        reason = (
            problem.strerror if isinstance(problem, OSError) and problem.strerror else "not a usable path"
        )
        raise _unreadable(file, use, reason) from None


def _unreadable(file: File, use: Use, reason: str) -> LanguageError:
    help = "the path is relative to the file that uses it"
    return error(file, "E0232", f"cannot read {shown(use.path)}: {reason}", use.span, help)


def _cycle(file: File, use: Use, chain: list[str]) -> LanguageError:
    way = " uses ".join(os.path.basename(p) for p in chain)
    return error(file, "E0231", f"{shown(use.path)} is already being read", use.span, notes=(way,))
