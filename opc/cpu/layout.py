"""Where buffers live: base pointers, strides, slots; accesses as byte offsets from a base."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.cpu.function import Function
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Program, instructions
from opc.program.memory import space_bytes

ALIGN = 64
STACK = 1 << 16  # bytes of a thread's stack that one buffer may take


@dataclass(frozen=True, slots=True)
class View:
    """An access with its index made linear: ``form`` is in bytes, over loop variables and local dimensions.

    ``row`` and ``used`` are the padded and the real length of a register buffer's last axis (0 in memory).
    ``stream`` views are written past the caches; their base is aligned to a cache line.
    """

    base: str
    form: Affine
    dtype: DType
    buffer: str
    row: int = 0
    used: int = 0
    stream: bool = False

    @property
    def register(self) -> bool:
        return self.row > 0

    def moved(self, form: Affine) -> View:
        """The same buffer at another place."""
        same = form is self.form
        return (
            self if same else View(self.base, form, self.dtype, self.buffer, self.row, self.used, self.stream)
        )

    def stride(self, dim: str) -> int:
        """Distance of two neighbours along ``dim``, in elements."""
        return self.form.coefficient(dim) // self.dtype.bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Blob sizes in bytes and every memory buffer's offsets in its blob."""

    packed: int
    workspace: int
    scratch: int  # per thread
    offsets: dict[str, tuple[int, ...]]
    page: int = 0  # of a scratch that is shifted to begin as far into a page as what is read
    arenas: tuple[tuple[str, int], ...] = ()  # results that lend memory to workspace, and how much

    def scratch_of(self, program: Program, names: Collection[str]) -> int:
        """Bytes of scratch that a phase needs which touches these buffers."""
        locals_ = (b for b in program.buffers if b.kind == "local" and b.name in names)
        ends = [max(self.offsets[b.name]) + b.slot_bytes for b in locals_ if b.name in self.offsets]
        return round_up(max(ends), ALIGN) + self.page if ends else 0


def _starts(program: Program, machine: Machine) -> dict[str, int]:
    """Where every space's part of a thread's scratch begins: offsets count from 0 in each of them."""
    found: dict[str, int] = {}
    end = 0
    for space in sorted(s.name for s in machine.spaces.values() if s.addressable):
        found[space] = end
        end = round_up(end + space_bytes(program, machine, space), ALIGN)
    return found


def round_up(value: int, unit: int) -> int:
    """The least multiple of ``unit`` that is at least ``value``."""
    return -(-value // unit) * unit


def plan(program: Program, machine: Machine) -> Layout:
    """Sizes of the blobs; buffers that no pass has placed are placed in order of declaration, and so are
    register buffers that are far too large for registers and for the stack.
    """
    sizes = {"packed": 0, "workspace": 0, "local": 0}
    offsets: dict[str, tuple[int, ...]] = {}
    waiting: list[Buffer] = []
    starts = _starts(program, machine)
    arenas: dict[str, int] = {}
    for b in program.buffers:
        registers = b.kind == "local" and not machine.spaces[b.space].addressable
        if b.kind not in sizes or (registers and b.slot_bytes * b.slots <= STACK):
            continue
        if registers or not b.offsets:
            waiting.append(b)
            continue
        start = starts.get(b.space, 0) if b.kind == "local" else 0
        offsets[b.name] = tuple(start + offset for offset in b.offsets)
        if b.lender and b.kind == "workspace":
            arenas[b.lender] = max(arenas.get(b.lender, 0), b.offsets[0] + b.slot_bytes)
            continue
        sizes[b.kind] = max(sizes[b.kind], max(offsets[b.name]) + b.slot_bytes)
    for b in waiting:
        step = round_up(max(b.slot_bytes, 1), ALIGN)
        first = round_up(sizes[b.kind], ALIGN)
        offsets[b.name] = tuple(first + i * step for i in range(b.slots))
        sizes[b.kind] = first + b.slots * step
    total = {k: round_up(v, ALIGN) for k, v in sizes.items()}
    page = _page(program, machine) if total["local"] else 0
    lent = tuple((name, round_up(size, ALIGN)) for name, size in sorted(arenas.items()))
    return Layout(total["packed"], total["workspace"], total["local"] + page, offsets, page, lent)


def _page(program: Program, machine: Machine) -> int:
    """The distance at which a processor takes a load for one that waits for an earlier store. It matters where
    stores beside the core follow loads from memory step by step, not in products, which stage what they read.
    """
    if any(i.opcode_class == "cube" for i, _ in instructions(program.body)):
        return 0
    return machine.limits.get("alias_bytes", 0)


def register_row(buffer: Buffer, vector_bytes: int) -> int:
    """Padded last axis of a register buffer, so that every row starts at a vector's first lane."""
    last = buffer.shape[-1] if buffer.shape else 1
    lanes = lanes_of(buffer.dtype, vector_bytes)
    return round_up(last, lanes) if last > lanes else 1 << (last - 1).bit_length()


def lanes_of(dtype: DType, vector_bytes: int) -> int:
    """Values of ``dtype``'s compute type in one vector."""
    return vector_bytes // dtype.compute.bytes


def strides(buffer: Buffer, row: int = 0) -> list[int]:
    """Row-major strides in bytes; ``row`` replaces the last extent."""
    shape = [*buffer.shape[:-1], row or buffer.shape[-1]] if buffer.shape else []
    found, step = [0] * len(shape), buffer.dtype.bytes
    for axis in range(len(shape) - 1, -1, -1):
        found[axis] = step
        step *= shape[axis]
    return found


def view(f: Function, buffer: Buffer, access: Access, base: str, offsets: tuple[int, ...], row: int) -> View:
    """The access as a byte offset from ``base``."""
    form = Affine()
    for index, stride in zip(access.index, strides(buffer, row), strict=True):
        form = form + index * stride
    used = (buffer.shape[-1] if buffer.shape else 1) if row else 0
    return View(base, form + _slot(f, access.slot, buffer, offsets), buffer.dtype, buffer.name, row, used)


def _slot(f: Function, slot: Affine, buffer: Buffer, offsets: tuple[int, ...]) -> Affine:
    """Byte offset of the slot."""
    count = len(offsets)
    if not count:
        return Affine()
    terms, const = f.known(slot)
    if not terms or count == 1:
        return Affine((), offsets[const % count])
    step = offsets[1] - offsets[0]
    if all(offsets[i] == offsets[0] + i * step for i in range(count)):
        chosen = f.derived(
            f"slot{count}.",
            slot,
            lambda v: [f"srem i64 {v}, {count}", f"add i64 @0@, {count}", f"urem i64 @1@, {count}"],
        )
        return chosen * step + offsets[0]

    def pick(value: str) -> list[str]:
        texts = [f"srem i64 {value}, {count}", f"add i64 @0@, {count}", f"urem i64 @1@, {count}"]
        texts.append(f"add i64 {offsets[0]}, 0")
        for i in range(1, count):
            at = len(texts)
            texts.append(f"icmp eq i64 @2@, {i}")
            texts.append(f"select i1 @{at}@, i64 {offsets[i]}, i64 @{at - 1}@")
        return texts

    return f.derived(f"pick{'.'.join(map(str, offsets))}.", slot, pick)


def rename(v: View, old: str, new: Affine) -> View:
    """Replace a dimension in the view's form."""
    return replace(v, form=v.form.substitute({old: new}))
