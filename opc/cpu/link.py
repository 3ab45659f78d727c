"""An object linked to an image, once, where code is made.

What this linker does not know (another processor, data that code writes) is left to LLVM's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from opc.cpu.image import Image

_ALIGN = 64
_X86_64, _RELOCATABLE = 62, 1
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_WRITE, _ALLOC = 1, 2
_UNDEFINED = 0
_PC32, _PLT32, _GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX = 2, 4, 9, 41, 42
_VIA_SLOT = frozenset({_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX})
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QIIq")
_STUB = b"\xff\x25"  # jmp [rip + distance]


class UnlinkableError(Exception):
    """The object needs a linker that knows more than this one."""


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    start: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


def link(data: bytes) -> Image:
    """Lay out the sections of an ELF object and resolve what they say of each other. Raises UnlinkableError."""
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        raise UnlinkableError("not a little-endian ELF object of 64 bits")
    kind, processor = struct.unpack_from("<HH", data, 16)
    if (kind, processor) != (_RELOCATABLE, _X86_64):
        raise UnlinkableError("not a relocatable object for x86-64")
    return _Linker(data).image()


class _Linker:
    def __init__(self, data: bytes) -> None:
        self.data = data
        table, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
        self.sections = [_Section(*_SECTION.unpack_from(data, table + 64 * i)) for i in range(count)]
        self.code = bytearray()
        self.starts: dict[int, int] = {}
        self.slots: dict[str, int] = {}
        self.stubs: dict[str, int] = {}

    def image(self) -> Image:
        for number, section in enumerate(self.sections):
            if section.flags & _ALLOC and section.size:
                self.starts[number] = self._place(section)
        symbols = self._symbols()
        for section in self.sections:
            if section.kind == _RELA and section.info in self.starts:
                self._relocate(section, symbols)
        functions = {
            s.name: self.starts[s.section] + s.value for s in symbols if s.name and s.section in self.starts
        }
        return Image(bytes(self.code), functions, self.slots)

    def _place(self, section: _Section) -> int:
        if section.flags & _WRITE or section.kind == _NOBITS:
            raise UnlinkableError("data that code writes")
        start = self._room(max(section.align, _ALIGN))
        self.code += self.data[section.start : section.start + section.size]
        return start

    def _room(self, align: int) -> int:
        self.code += bytes(-len(self.code) % align)
        return len(self.code)

    def _symbols(self) -> list[_Symbol]:
        table = next((s for s in self.sections if s.kind == _SYMTAB), None)
        if table is None:
            return []
        names = self.sections[table.link].start
        found = []
        for at in range(table.start, table.start + table.size, _SYMBOL.size):
            name, _, _, section, value, _ = _SYMBOL.unpack_from(self.data, at)
            end = self.data.index(b"\0", names + name)
            found.append(_Symbol(self.data[names + name : end].decode("ascii"), section, value))
        return found

    def _relocate(self, section: _Section, symbols: list[_Symbol]) -> None:
        base = self.starts[section.info]
        for offset, kind, number, addend in self._relocations(section):
            symbol = symbols[number]
            place = base + offset
            target = self._target(kind, symbol)
            distance = target + addend - place
            if not -(1 << 31) <= distance < 1 << 31:
                raise UnlinkableError("code of more than 2 GiB")
            struct.pack_into("<i", self.code, place, distance)

    def _relocations(self, section: _Section) -> Iterator[tuple[int, int, int, int]]:
        for at in range(section.start, section.start + section.size, _RELOCATION.size):
            offset, kind, number, addend = _RELOCATION.unpack_from(self.data, at)
            yield offset, kind, number, addend

    def _target(self, kind: int, symbol: _Symbol) -> int:
        if kind not in (_PC32, _PLT32, *_VIA_SLOT):
            raise UnlinkableError(f"relocation {kind}")
        if symbol.section in self.starts and kind not in _VIA_SLOT:
            return self.starts[symbol.section] + symbol.value
        if symbol.section != _UNDEFINED or not symbol.name:
            raise UnlinkableError(f"symbol '{symbol.name}' in section {symbol.section}")
        slot = self._slot(symbol.name)
        return slot if kind in _VIA_SLOT else self._stub(symbol.name, slot)

    def _slot(self, name: str) -> int:
        if name not in self.slots:
            self.slots[name] = self._room(8)
            self.code += bytes(8)
        return self.slots[name]

    def _stub(self, name: str, slot: int) -> int:
        """A jump to where the slot points: the C function may be farther away than a call reaches."""
        if name not in self.stubs:
            start = self.stubs[name] = self._room(8)
            self.code += _STUB + struct.pack("<i", slot - start - 6)
        return self.stubs[name]
