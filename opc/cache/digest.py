"""SHA-256 without OpenSSL, which takes longer to load than all entries that a program needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


def _found() -> Any:
    for name in ("_sha2", "_sha256"):  # of Python 3.12 and later, of 3.11
        try:
            return import_module(name).sha256
        except (ImportError, AttributeError):
            continue
    return import_module("hashlib").sha256


if TYPE_CHECKING:
    from hashlib import sha256 as sha256
else:
    sha256 = _found()
