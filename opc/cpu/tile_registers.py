"""Tile registers: which of them a buffer of the tile space takes, and in what shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from opc.errors import MachineError, fail
from opc.machine.model import Machine
from opc.program.ir import Buffer, Program

TILES = 8
ROWS, ROW_BYTES = 16, 64


def tile_space(machine: Machine) -> str:
    """Name of the machine's tile space, or "" if it has none."""
    if not any(name.startswith("amx") for name in machine.features):
        return ""
    accumulator = machine.roles.get("accumulator", "")
    return accumulator if accumulator and not machine.spaces[accumulator].addressable else ""


@dataclass(frozen=True, slots=True)
class Block:
    """One tile of a buffer: its register, shape, and place in the buffer."""

    number: int
    rows: int
    row_bytes: int
    row: int
    column: int  # in bytes


@dataclass(frozen=True, slots=True)
class Tile:
    """A buffer in tile registers, the first of which is ``number``."""

    number: int
    buffer: Buffer

    @property
    def rows(self) -> int:
        return self.buffer.shape[0]

    @property
    def row_bytes(self) -> int:
        return prod(self.buffer.shape[1:]) * self.buffer.dtype.bytes

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.row_bytes // ROW_BYTES)

    @property
    def count(self) -> int:
        return -(-self.rows // ROWS) * self.columns

    def blocks(self) -> Iterator[Block]:
        """Row by row."""
        number = self.number
        for row in range(0, self.rows, ROWS):
            for column in range(0, self.row_bytes, ROW_BYTES):
                shape = min(ROWS, self.rows - row), min(ROW_BYTES, self.row_bytes - column)
                yield Block(number, *shape, row, column)
                number += 1

    def block(self, row: int, column: int) -> Block:
        """The tile in a row and column of the grid."""
        at = row * self.columns + column
        return next(b for i, b in enumerate(self.blocks()) if i == at)


def assign(program: Program, space: str) -> dict[str, Tile]:
    """Tile numbers of every buffer of the tile space: its offset, or else in order of declaration."""
    found: dict[str, Tile] = {}
    following = 0
    for b in program.buffers:
        if b.space != space:
            continue
        tile = Tile(b.offsets[0] if b.offsets else following, b)
        following = tile.number + tile.count
        if following > TILES or b.slots > 1 or len(b.shape) < 2:
            raise fail(
                MachineError,
                "E0954",
                f"buffer '{b.name}' does not fit tile registers {tile.number} to {following - 1}",
                help=f"there are {TILES} tiles of {ROWS} rows of {ROW_BYTES} bytes; buffers need two axes",
            )
        found[b.name] = tile
    return found
