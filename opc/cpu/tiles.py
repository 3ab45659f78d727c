"""Tile registers: AMX intrinsics with fixed tile numbers, or functions that compute the same for hosts
without AMX.

A buffer of the tile space is a grid of tiles of at most 16 rows x 64 bytes, numbered row by row from the
buffer's offset. The second operand of a multiplication is stored in groups of the values that fit four
bytes, ``b[k / g, n, g]``, as the processor wants it; ``tile_groups`` brings ``b[k, n]`` into that form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

from opc.affine import Affine
from opc.cpu import elementwise, emulate
from opc.cpu.function import Function, Index
from opc.cpu.layout import View
from opc.cpu.tile_registers import ROWS, Block, Tile
from opc.dtypes import DType
from opc.errors import MachineError, fail
from opc.program.ir import Access, Instr, Stmt, instructions

GROUP_BYTES = 4
Plain = Callable[[Instr, View | None, dict[int, View]], None]
_LOADS = {"": "tileloadd64", "stream": "tileloaddt164"}
_MULTIPLY = {DType.BF16: "tdpbf16ps", DType.I8: "tdpbssd"}
_FEATURES = {DType.BF16: "amx-bf16", DType.I8: "amx-int8"}


class TileUnit:
    """Emits instructions on tiles within one phase."""

    def __init__(self, f: Function, tiles: dict[str, Tile], emulated: bool) -> None:
        self.f, self.tiles, self.emulated = f, tiles, emulated
        self.storage = emulate.declare(f) if emulated and tiles else ""
        self.configured = False
        self._images: dict[str, str] = {}

    def touches(self, i: Instr) -> bool:
        """True if an operand is in a tile."""
        return any(a.buffer in self.tiles for a in (*i.dst, *i.sources))

    def mixes(self, statements: Sequence[Stmt]) -> bool:
        """Whether products on tiles have vector work between them, whose order then is the program's."""
        own = [s for s in statements if isinstance(s, Instr)]
        products = any(s.opcode_class == "cube" and self.touches(s) for s in own)
        return (
            not self.emulated
            and products
            and any(s.opcode_class == "vector" and not self.touches(s) for s in own)
        )

    def names(self, statements: Sequence[Stmt]) -> set[str]:
        """Tile buffers that the statements touch."""
        touched = (i for i, _ in instructions(tuple(statements)))
        return {a.buffer for i in touched for a in (*i.dst, *i.sources)} & set(self.tiles)

    def _shapes(self, statements: Sequence[Stmt]) -> dict[int, tuple[int, int]] | None:
        """Rows and row bytes of every tile register in use; None if one would need two shapes."""
        shapes: dict[int, tuple[int, int]] = {}
        for name in sorted(self.names(statements)):
            for block in self.tiles[name].blocks():
                shape = (block.rows, block.row_bytes)
                if shapes.setdefault(block.number, shape) != shape:
                    return None
        return shapes

    def region(self, statements: Sequence[Stmt], emit: Callable[[Stmt], None]) -> None:
        """Emit the statements, the tiles configured once around as many of them as agree on every tile's shape.

        Configuring clears the tiles, so nothing may stay in them from one configuration to the next.
        """
        if self.configured or not self.tiles:
            for stmt in statements:
                emit(stmt)
            return
        runs = self._runs(statements)
        for run in runs:
            shapes = self._shapes(run)
            if shapes is None and (len(run) > 1 or isinstance(run[0], Instr)):
                raise _conflict(min(self.names(run)))
            if shapes:
                self._configure(shapes)
                self.configured = True
            for stmt in run:
                emit(stmt)
            if shapes:
                self._release()
                self.configured = False

    def _runs(self, statements: Sequence[Stmt]) -> list[list[Stmt]]:
        """Neighbours that agree on the shapes; a loop that does not agree within itself stands alone."""
        runs: list[list[Stmt]] = []
        for stmt in statements:
            if runs and self._shapes([*runs[-1], stmt]) is not None:
                runs[-1].append(stmt)
                continue
            runs.append([stmt])
        for before, run in reversed(list(pairwise(runs))):
            self._settle(before, run)
        runs = [run for run in runs if run]
        seen: set[str] = set()
        for run in runs:
            if kept := self._kept(seen, run):
                raise _conflict(min(kept))
            seen |= self.names(run)
        return runs

    def _kept(self, names: set[str], run: Sequence[Stmt]) -> set[str]:
        """Those of the buffers that the run touches before it has written all of them."""
        found: set[str] = set()
        left = names & self.names(run)
        for i, _ in instructions(tuple(run)):
            for name in left & {a.buffer for a in (*i.dst, *i.sources)}:
                left.discard(name)
                if not self._fills(i, name):
                    found.add(name)
        return found

    def _fills(self, i: Instr, name: str) -> bool:
        """Whether an instruction overwrites a whole buffer and reads nothing of it."""
        starts = i.opcode_class != "cube" or (i.init is not None and i.init == Affine())
        if not starts or any(s.buffer == name for s in i.sources):
            return False
        kept = {n for a in i.dst for form in a.index for n in form.names}
        return prod(e for n, e in i.dims if n in kept) == self.tiles[name].buffer.elements

    def _settle(self, before: list[Stmt], run: list[Stmt]) -> None:
        """Move the cut between two runs to where nothing stays in tiles."""
        while stays := self._kept(self.names(before), run):
            first = next(n for n, stmt in enumerate(before) if self.names([stmt]) & stays)
            run[:0] = before[first:]
            del before[first:]

    def _configure(self, shapes: dict[int, tuple[int, int]]) -> None:
        if self.emulated:
            return
        f = self.f
        data = bytearray(64)
        data[0] = 1
        for number, (rows, row_bytes) in shapes.items():
            data[16 + 2 * number] = row_bytes
            data[48 + number] = rows
        memory = f.alloca("i8", 64, 64)
        for at in range(0, 64, 8):
            word = int.from_bytes(data[at : at + 8], "little")
            f.do(f"store i64 {word}, ptr {f.op(f'getelementptr i8, ptr {memory}, i64 {at}')}, align 8")
        f.call("llvm.x86.ldtilecfg", "void", [memory], ["ptr"])

    def _release(self) -> None:
        """Give the tile registers back to the operating system."""
        if not self.emulated:
            self.f.call("llvm.x86.tilerelease", "void", [], [])

    def emit(self, i: Instr, view: Callable[[Access], View], plain: Plain) -> None:
        """Emit one instruction. ``view`` linearises an access; ``plain`` emits an instruction whose
        destination or sources (by position) are replaced by views of memory.
        """
        if i.opcode == "cube.mma":
            self._multiply(i)
            return
        if self._zero(i):
            return
        sources: dict[int, View] = {}
        for n, s in enumerate(i.src):
            if isinstance(s, Access) and s.buffer in self.tiles:
                if self._store_direct(i, n, s, view):
                    return
                sources[n] = self._image(s)
                self._store(self.tiles[s.buffer], sources[n].base, self.tiles[s.buffer].row_bytes)
        target = i.dst[0]
        if target.buffer not in self.tiles:
            plain(i, None, sources)
            return
        if not sources and self._load_direct(i, view):
            return
        tile, destination = self.tiles[target.buffer], self._image(target)
        if prod(e for _, e in i.dims) != tile.buffer.elements:
            # Only a part is written: the rest must come through unchanged.
            self._store(tile, destination.base, tile.row_bytes)
        plain(i, destination, sources)
        self._load(tile, destination.base, tile.row_bytes)

    def _image(self, access: Access) -> View:
        """The access in a copy of the buffer in memory, whose rows follow each other without gaps."""
        buffer = self.tiles[access.buffer].buffer
        form, step = Affine(), buffer.dtype.bytes
        for index, extent in zip(reversed(access.index), reversed(buffer.shape), strict=True):
            form = form + index * step
            step *= extent
        if buffer.name not in self._images:
            self._images[buffer.name] = self.f.alloca("i8", step, 64)
        return View(self._images[buffer.name], form, buffer.dtype, buffer.name)

    def _zero(self, i: Instr) -> bool:
        """``tile = 0`` over the whole tile."""
        if i.opcode != "vector.copy" or i.dst[0].buffer not in self.tiles or isinstance(i.src[0], Access):
            return False
        tile = self.tiles[i.dst[0].buffer]
        if i.src[0].value != 0 or prod(e for _, e in i.dims) != tile.buffer.elements:
            return False
        self._tile_zero(tile)
        return True

    def _strided(self, i: Instr, tile_access: Access, other: View) -> tuple[View, int] | None:
        """(view of the first element, distance of rows in bytes) if ``other`` walks whole tile rows
        contiguously.
        """
        tile = self.tiles[tile_access.buffer]
        if other.dtype is not tile.buffer.dtype or prod(e for _, e in i.dims) != tile.buffer.elements:
            return None
        inside, step = Affine(), tile.buffer.dtype.bytes
        for index, extent in zip(reversed(tile_access.index), reversed(tile.buffer.shape), strict=True):
            inside = inside + index * step
            step *= extent
        row, distances = tile.row_bytes, set()
        for name, extent in i.dims:
            here, there = inside.coefficient(name), other.form.coefficient(name)
            if extent == 1:
                continue
            if here >= row and here % row == 0 and there % (here // row) == 0:
                distances.add(there // (here // row))
            elif here != there:
                return None
        if len(distances) > 1:
            return None
        origin = other.form.substitute({name: 0 for name, _ in i.dims})
        return replace(other, form=origin), next(iter(distances), row)

    def _load_direct(self, i: Instr, view: Callable[[Access], View]) -> bool:
        source = i.src[0] if i.opcode in elementwise.COPIES and i.src else None
        if not isinstance(source, Access) or i.fill is not None:
            return False
        found = self._strided(i, i.dst[0], view(source))
        if found is None or found[0].register:
            return False
        pointer = self.f.pointer(found[0].base, found[0].form)
        self._load(self.tiles[i.dst[0].buffer], pointer, found[1], _LOADS[i.hint])
        return True

    def _store_direct(self, i: Instr, position: int, source: Access, view: Callable[[Access], View]) -> bool:
        if i.opcode not in elementwise.COPIES or set(i.scale) - {"convert"} or i.dst[0].buffer in self.tiles:
            return False
        found = self._strided(i, source, view(i.dst[0])) if position == 0 else None
        if found is None or found[0].register:
            return False
        self._store(self.tiles[source.buffer], self.f.pointer(found[0].base, found[0].form), found[1])
        return True

    def _multiply(self, i: Instr) -> None:
        a, b = i.sources
        c = i.dst[0]
        dtype = self.tiles[a.buffer].buffer.dtype if a.buffer in self.tiles else DType.F32
        if dtype not in _MULTIPLY or not _is_product(i, dtype.bytes):
            raise fail(
                MachineError,
                "E0954",
                f"cube.mma on '{c.buffer}' is not a multiplication of whole tiles",
                help="write c[m, n] += a[m, k] · b[k, n] over whole buffers, bf16 or i8",
            )
        if not self.emulated and _FEATURES[dtype] not in self.f.module.features:
            raise fail(
                MachineError,
                "E0954",
                f"cube.mma on '{c.buffer}' multiplies {dtype} in tiles, which needs {_FEATURES[dtype]}",
                help="name it among the machine's features, or multiply in registers",
            )
        tiles = [self.tiles[x.buffer] for x in (c, a, b)]
        if i.init is not None:
            self._start(i.init, tiles[0])
        for m in range(-(-tiles[0].rows // ROWS)):
            for n in range(tiles[0].columns):
                for k in range(tiles[1].columns):
                    self._multiply_blocks(
                        tiles[0].block(m, n), tiles[1].block(m, k), tiles[2].block(k, n), dtype
                    )

    def _multiply_blocks(self, c: Block, a: Block, b: Block, dtype: DType) -> None:
        numbers = [c.number, a.number, b.number]
        if self.emulated:
            emulate.multiply(
                self.f, self.storage, numbers, (c.rows, c.row_bytes // GROUP_BYTES, b.rows), dtype
            )
        else:
            self.f.call(f"llvm.x86.{_MULTIPLY[dtype]}", "void", [str(n) for n in numbers], ["i8 immarg"] * 3)

    def _start(self, init: Affine, tile: Tile) -> None:
        first: Index = self.f.index(init)
        if first == 0:
            self._tile_zero(tile)
        elif isinstance(first, str):
            self.f.branch(self.f.op(f"icmp eq i64 {first}, 0"), lambda: self._tile_zero(tile))

    def _tile_zero(self, tile: Tile) -> None:
        for block in tile.blocks():
            if self.emulated:
                emulate.zero(self.f, self.storage, block.number)
            else:
                self.f.call("llvm.x86.tilezero", "void", [str(block.number)], ["i8 immarg"])

    def _load(self, tile: Tile, pointer: str, stride: int, load: str = _LOADS[""]) -> None:
        for block in tile.blocks():
            at = self._block_pointer(block, pointer, stride)
            if self.emulated:
                emulate.load(
                    self.f, self.storage, block.number, at, str(stride), (block.rows, block.row_bytes)
                )
            else:
                self._move(f"llvm.x86.{load}", block.number, at, stride)

    def _store(self, tile: Tile, pointer: str, stride: int) -> None:
        for block in tile.blocks():
            at = self._block_pointer(block, pointer, stride)
            if self.emulated:
                emulate.store(
                    self.f, self.storage, block.number, at, str(stride), (block.rows, block.row_bytes)
                )
            else:
                self._move("llvm.x86.tilestored64", block.number, at, stride)

    def _block_pointer(self, block: Block, pointer: str, stride: int) -> str:
        offset = block.row * stride + block.column
        return self.f.op(f"getelementptr i8, ptr {pointer}, i64 {offset}") if offset else pointer

    def _move(self, name: str, number: int, pointer: str, stride: int) -> None:
        self.f.call(name, "void", [str(number), pointer, str(stride)], ["i8 immarg", "ptr", "i64"])


def _conflict(name: str) -> Exception:
    return fail(
        MachineError,
        "E0954",
        f"'{name}' stays in tiles while others of another shape use the same registers",
        help="give buffers of different shapes different tiles",
    )


def _is_product(i: Instr, size: int) -> bool:
    """``c[m, n] += a[m, k·g + j] · b[k, n, j]``; an index of extent 1 is the constant 0."""
    a, b = i.sources
    c, group, extents = i.dst[0], GROUP_BYTES // size, i.extents
    if (len(a.index), len(b.index), len(c.index)) != (2, 3, 2):
        return False
    m, n = c.index
    k, _, j = b.index
    bare = [f.as_var() for f in (m, n, k, j) if f != Affine()]
    if None in bare or sorted(map(str, bare)) != sorted(extents) or extents.get(str(j.as_var())) != group:
        return False
    return a.index == (m, k * group + j) and b.index[1] == n
