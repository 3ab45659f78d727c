"""The text and bytes of one entry: a line that names the format and a hash, a manifest, and parts.

    opc-cache v2 sha256 HEX
    {'key': …, …, 'parts': [('code', 1234), …]}
    … the parts, one after the other

The hash covers everything after the first line. Entries hold data and machine code, no Python objects. The manifest
is a literal, which is read with what NumPy has loaded already: json takes two milliseconds to load.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from opc.cache.digest import sha256

FORMAT = b"opc-cache v2 sha256 "
_HEX = 64


class Entry(NamedTuple):
    """An entry whose hash was right."""

    manifest: dict[str, Any]
    parts: dict[str, bytes]


def pack(manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """The bytes of an entry."""
    listed = {**manifest, "parts": [(name, len(data)) for name, data in parts.items()]}
    text = ascii(_literal(listed)).encode("ascii")
    body = b"\n".join((text, b"".join(parts.values())))
    return FORMAT + sha256(body).hexdigest().encode("ascii") + b"\n" + body


def _literal(value: object) -> object:
    """The value with plain tuples and dicts, whose text is a literal."""
    if isinstance(value, Mapping):
        return {name: _literal(value[name]) for name in sorted(value)}
    return tuple(map(_literal, value)) if isinstance(value, list | tuple) else value


def unpack(data: bytes) -> Entry | None:
    """The entry in ``data``; None for what ``pack`` did not write like this."""
    start = len(FORMAT) + _HEX + 1
    if not data.startswith(FORMAT) or data[start - 1 : start] != b"\n":
        return None
    body = memoryview(data)[start:]
    if sha256(body).hexdigest().encode("ascii") != data[len(FORMAT) : start - 1]:
        return None
    end = data.index(b"\n", start)
    manifest = ast.literal_eval(data[start:end].decode("ascii"))
    parts, at = {}, end + 1
    for name, size in manifest.pop("parts"):
        parts[name] = data[at : at + size]
        at += size
    return Entry(manifest, parts)
