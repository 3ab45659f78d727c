"""Where the interpreter keeps buffers, and how an access becomes a NumPy view.

Local buffers start poisoned (all bits set: NaN in every float type, -1 in every integer type). After
plan-memory the local buffers of a space share one array of bytes at their offsets, so that a wrong
reuse of memory changes results. With checking on, every element also records who wrote it last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opc.errors import IRError, fail
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Program
from opc.program.memory import offset_unit, slot_size

Array = Any  # np.ndarray of any element type
_CACHED_VIEWS = 1024


class _Arena:
    """Bytes that several buffers may share, and for each byte a mark of who wrote it."""

    def __init__(self, size: int) -> None:
        import numpy as np

        self.data: Array = np.empty(size, np.uint8)
        self.owners: Array = np.empty(size, np.uint8)
        self.poison()

    def poison(self) -> None:
        self.data.fill(0xFF)
        self.owners.fill(0)

    def view(self, part: Array, start: int, b: Buffer, dtype: Any) -> Array:
        """The bytes of ``part`` where a slot of ``b`` starts, as elements."""
        return part[start : start + b.slot_bytes].view(dtype).reshape(b.shape)


class Storage:
    """Arrays of every buffer, one per slot; ``owners`` mirrors them when reads are checked."""

    def __init__(
        self, program: Program, arrays: Mapping[str, Array], machine: Machine | None, check: bool
    ) -> None:
        self.slots: dict[str, list[Array]] = {}
        self.owners: dict[str, list[Array]] = {}
        self._marks = {
            b.name: int.from_bytes(bytes([1 + n % 255]) * b.dtype.bytes, "little")
            for n, b in enumerate(program.buffers)
        }
        self._forgotten: list[_Arena] = []
        self._check = check
        for b in program.buffers:
            if b.kind == "workspace" and b.name not in arrays:
                continue
            if b.kind != "local":
                self._bind(b, arrays)
        self._workspace([b for b in program.buffers if b.kind == "workspace" and b.name not in arrays])
        self._locals([b for b in program.buffers if b.kind == "local"], machine)

    def _bind(self, b: Buffer, arrays: Mapping[str, Array]) -> None:
        import numpy as np

        array = arrays.get(b.name)
        if array is None:
            raise fail(IRError, "E0403", f"the program needs an array for its {b.kind} '{b.name}'")
        if array.shape != b.shape or array.dtype != b.dtype.numpy:
            found = f"{array.dtype}{list(array.shape)}"
            raise fail(IRError, "E0403", f"'{b.name}' is {b.dtype}{list(b.shape)}, the array is {found}")
        self.slots[b.name] = [array]
        if self._check and b.kind in ("output", "workspace"):
            self.owners[b.name] = [np.zeros(b.shape, f"u{b.dtype.bytes}")]

    def _workspace(self, absent: list[Buffer]) -> None:
        """Workspace that the caller did not bring: one blob for what is planned, and the lenders' memory."""
        for b in (b for b in absent if b.lender):
            self._borrow(b)
        absent = [b for b in absent if not b.lender]
        planned = [b for b in absent if b.offsets]
        blob = _Arena(max((b.offsets[0] + b.slot_bytes for b in planned), default=0))
        for b in absent:
            self._carve(b, b.offsets or (0,), blob if b.offsets else _Arena(b.slot_bytes))

    def _borrow(self, b: Buffer) -> None:
        """Workspace in the memory of a result, whose array then is the caller's."""
        (lender,) = self.slots[b.lender]
        whole = lender.flags.c_contiguous
        arena = _Arena(0 if whole else b.offsets[0] + b.slot_bytes)
        if whole:
            arena.data = lender.reshape(-1).view("u1")
        if whole and self._check:
            arena.owners = self.owners[b.lender][0].reshape(-1).view("u1")
        self._carve(b, b.offsets, arena)

    def _locals(self, private: list[Buffer], machine: Machine | None) -> None:
        ends: dict[str, int] = {}
        starts: dict[str, tuple[int, ...]] = {}
        for b in private:
            if b.offsets and machine is not None and b.space in machine.spaces:
                unit = offset_unit(machine, b)
                starts[b.name] = tuple(offset * unit for offset in b.offsets)
                end = max(starts[b.name]) + slot_size(machine, b) * unit
                ends[b.space] = max(ends.get(b.space, 0), end)
        spaces = {space: _Arena(end) for space, end in ends.items()}
        own = {b.name: _Arena(b.slots * b.slot_bytes) for b in private if b.name not in starts}
        for b in private:
            apart = tuple(n * b.slot_bytes for n in range(b.slots))
            self._carve(b, starts.get(b.name, apart), own.get(b.name) or spaces[b.space])
        self._forgotten = [*spaces.values(), *own.values()]

    def _carve(self, b: Buffer, starts: tuple[int, ...], arena: _Arena) -> None:
        """Views of the buffer's slots in an arena."""
        self.slots[b.name] = [arena.view(arena.data, s, b, b.dtype.numpy) for s in starts]
        if self._check:
            self.owners[b.name] = [arena.view(arena.owners, s, b, f"u{b.dtype.bytes}") for s in starts]

    def mark(self, name: str) -> int:
        """What ``owners`` hold where this buffer wrote last: one byte, repeated over the element."""
        return self._marks[name]

    def forget(self) -> None:
        """Poison every local buffer: a core begins an iteration knowing nothing."""
        for arena in self._forgotten:
            arena.poison()


class Reference:
    """An access to one list of slots, prepared for repeated evaluation: one view axis per name of
    ``dims``, stride 0 where the index does not use it.
    """

    def __init__(self, access: Access, dims: Sequence[tuple[str, int]], extents: Mapping[str, int]) -> None:
        self.access = access
        self.shape = tuple(extent for _, extent in dims)
        self.bases = []
        self.reach = []
        for form in access.index:
            local, base = form.split(extents)
            self.bases.append(base)
            self.reach.append(local.interval(extents))
        self.steps = [[form.coefficient(name) for form in access.index] for name, _ in dims]
        self.strides: tuple[int, ...] = ()
        self.views: dict[tuple[int, ...], Array] = {}

    def start(self, env: Mapping[str, int]) -> tuple[int, ...]:
        """The index of the dims' origin."""
        return tuple(base.evaluate(env) if base.terms else base.const for base in self.bases)

    def inside(self, start: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether the whole access stays in a buffer of that shape."""
        for s, (low, high), extent in zip(start, self.reach, shape, strict=True):
            if s + low < 0 or s + high >= extent:
                return False
        return True

    def slot(self, slots: list[Array], env: Mapping[str, int]) -> int:
        """The number of the slot in use."""
        return self.access.slot.evaluate(env) % len(slots) if len(slots) > 1 else 0

    def view(self, slots: list[Array], env: Mapping[str, int]) -> Array:
        """A writable view of the accessed elements. Raises IRError (E0555) outside the buffer."""
        slot, start = self.slot(slots, env), self.start(env)
        view = self.views.get((slot, *start))
        if view is None:
            array = slots[slot]
            if not self.inside(start, array.shape):
                message = f"'{self.access.buffer}' of shape {list(array.shape)} is left at {start}"
                raise fail(IRError, "E0555", message)
            if len(self.views) >= _CACHED_VIEWS:
                self.views.clear()
            view = self.views[(slot, *start)] = self._strided(array, start)
        return view

    def _strided(self, array: Array, start: tuple[int, ...]) -> Array:
        import numpy as np
        from numpy.lib.stride_tricks import as_strided

        if not self.strides:
            axes = array.strides
            self.strides = tuple(sum(c * s for c, s in zip(steps, axes, strict=True)) for steps in self.steps)
        if array.flags.c_contiguous:
            offset = sum(n * s for n, s in zip(start, array.strides, strict=True))
            flat = array.reshape(-1).view(np.uint8)
            return np.ndarray(self.shape, array.dtype, flat, offset, self.strides)
        # The ellipsis keeps a view of a scalar a view.
        return as_strided(array[(*(slice(n, None) for n in start), ...)], self.shape, self.strides)

    def elements(self, slots: list[Array], env: Mapping[str, int], fill: float | int | None) -> Array:
        """The accessed elements, with ``fill`` (unless None) where the index leaves the buffer."""
        import numpy as np

        array, start = slots[self.slot(slots, env)], self.start(env)
        if fill is None or self.inside(start, array.shape):
            return self.view(slots, env)
        rank = len(self.shape)
        index, valid = [], np.ones(self.shape, bool)
        for axis, (s, extent) in enumerate(zip(start, array.shape, strict=True)):
            position = np.full((1,) * rank, s)
            for dim, steps in enumerate(self.steps):
                if steps[axis]:
                    grid = np.arange(self.shape[dim]) * steps[axis]
                    position = position + grid.reshape((1,) * dim + (-1,) + (1,) * (rank - dim - 1))
            valid &= (position >= 0) & (position < extent)
            index.append(np.clip(position, 0, extent - 1))
        found = array[tuple(index)]
        return np.where(valid, found, np.asarray(fill, array.dtype))
