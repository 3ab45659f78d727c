"""Machine code as it lies in memory: one block of bytes that runs at any address.

Loading copies the block, fills in addresses of C functions and makes it executable. That takes well under a
millisecond and needs no LLVM, which takes longer to import than to load code with.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

_READ, _EXECUTE = 1, 4


class Image(NamedTuple):
    """Linked code: the offset of each function, and of each 8-byte slot that takes a C function's address."""

    code: bytes
    functions: dict[str, int]
    slots: dict[str, int]


class Loaded:
    """An image in this process; addresses live as long as the object."""

    def __init__(self, image: Image) -> None:
        self._functions = image.functions
        # Private, so that a child after fork has its own; never writable and executable at once.
        self._memory = mmap.mmap(-1, max(len(image.code), 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory[: len(image.code)] = image.code
        self._pin = (ctypes.c_char * len(self._memory)).from_buffer(self._memory)
        self._base = ctypes.addressof(self._pin)
        library = ctypes.CDLL(None, use_errno=True)
        for name, offset in image.slots.items():
            function = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            self._memory[offset : offset + 8] = (function or 0).to_bytes(8, "little")
        pages = ctypes.c_size_t(len(self._memory))
        if library.mprotect(ctypes.c_void_p(self._base), pages, _READ | _EXECUTE):
            raise OSError(ctypes.get_errno(), "cannot make memory executable")

    def address(self, symbol: str) -> int:
        """Address of a function."""
        return self._base + self._functions[symbol]
