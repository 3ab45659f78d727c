"""Functional simulation: byte memories per core, instructions executed in an order that is given.

Local memories start poisoned (every byte 0xFF, so every float is NaN). ``simulate`` runs each core's
trace in program order; ``opc.npu.adversarial`` hands in other orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from opc.dtypes import DType
from opc.errors import ListingError, fail
from opc.machine import Machine, load
from opc.npu.alu import matmul
from opc.npu.expand import Static, Trace, expand
from opc.npu.listing import Instruction, Listing, Region, Tensor
from opc.npu.mnemonics import opcode_of
from opc.program import evaluate
from opc.program.ir import Imm

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

POISON = 0xFF
Action = Callable[[int], None]


class GlobalMemory:
    """The blobs of a listing's tensors, poisoned where the caller gives no array."""

    def __init__(self, listing: Listing, arrays: Mapping[str, Array]) -> None:
        import numpy as np

        self.tensors = {t.name: t for t in listing.tensors}
        sizes: dict[str, int] = {}
        for t in listing.tensors:
            sizes[t.blob] = max(sizes.get(t.blob, 0), t.offset + t.bytes)
        self.blobs = {name: np.full(size, POISON, np.uint8) for name, size in sizes.items()}
        written = {r.tensor for p in listing.phases for r in _destinations(p.body)}
        self.results = [t.name for t in listing.tensors if t.name in written]
        for t in listing.tensors:
            if t.name in arrays:
                self._bind(t, arrays[t.name])
            elif t.kind in ("input", "param", "inout") or (t.kind == "packed" and t.name not in written):
                raise fail(ListingError, "E0830", f"no array is given for {t.kind} '{t.name}'")

    def _bind(self, t: Tensor, array: Array) -> None:
        import numpy as np

        if tuple(array.shape) != t.shape or array.dtype != t.dtype.numpy:
            given = f"{array.dtype}{list(array.shape)}"
            raise fail(ListingError, "E0831", f"tensor '{t.name}' is {t.dtype}{list(t.shape)}, not {given}")
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.blobs[t.blob][t.offset : t.offset + t.bytes] = data

    def array(self, name: str) -> Array:
        """A copy of one tensor."""
        t = self.tensors[name]
        return self.blobs[t.blob][t.offset : t.offset + t.bytes].view(t.dtype.numpy).reshape(t.shape).copy()


def _destinations(body: Iterable[Any]) -> Iterable[Region]:
    for s in body:
        if isinstance(s, Instruction):
            yield from s.dst
        else:
            yield from _destinations(s.body)


class Core:
    """One core's local memories and the actions of one phase's instructions on them."""

    def __init__(self, trace: Trace, memory: GlobalMemory, machine: Machine) -> None:
        import numpy as np

        self.memory = memory
        self.local = {
            s.name: np.full(s.capacity, POISON, np.uint8)
            for s in machine.spaces.values()
            if s.addressable and s.capacity
        }
        self.actions: list[Action] = [self._action(s) for s in trace.statics]

    def run(self, order: Iterable[int]) -> None:
        """Execute static instructions in program order."""
        actions, count = self.actions, [0] * len(self.actions)
        for j in order:
            k = count[j]
            count[j] = k + 1
            actions[j](k)

    def _view(self, s: Static, region: Region, keep: Iterable[int]) -> Callable[[int], Array]:
        """The k-th view of a region, over the kept dimensions in that order."""
        import numpy as np

        addresses = s.addresses(region)
        if region.tensor:
            tensor = self.memory.tensors[region.tensor]
            buffer, offset = self.memory.blobs[tensor.blob], tensor.offset
        else:
            buffer, offset = self.local[region.space], 0
        keep = tuple(keep)
        shape = tuple(s.instruction.dims[n][1] for n in keep)
        strides = tuple(region.strides[n] for n in keep)
        dtype = region.dtype.numpy

        def view(k: int) -> Array:
            try:
                return np.ndarray(shape, dtype, buffer, addresses[k] + offset, strides)
            except (TypeError, ValueError):
                raise _outside(s, region, addresses[k], len(buffer)) from None

        return view

    def _action(self, s: Static) -> Action:
        opcode = opcode_of(s.instruction.mnemonic)
        assert opcode is not None, "the parser and the emitter know every mnemonic"
        if opcode.startswith("sync."):
            return lambda k: None
        if opcode == "copy":
            return self._guarded(s) if s.instruction.bounds else self._copy(s)
        if opcode == "cube.mma":
            return self._mma(s)
        if opcode == "vector.iota":
            return self._iota(s)
        op = opcode.split(".")[1]
        if op.startswith("reduce_"):
            return self._reduce(s, op)
        return self._elementwise(s, op)

    def _copy(self, s: Static) -> Action:
        i = s.instruction
        source, target = i.sources[0], i.dst[0]
        dims = range(len(i.dims))
        read, write, dtype = self._view(s, source, dims), self._view(s, target, dims), target.dtype
        if source.dtype == dtype:

            def move(k: int) -> None:
                write(k)[...] = read(k)

            return move

        def convert(k: int) -> None:
            write(k)[...] = evaluate.convert(read(k), dtype)

        return convert

    def _guarded(self, s: Static) -> Action:
        """A copy whose source elements outside the bounds are the fill value."""
        import numpy as np

        i = s.instruction
        source, target = i.sources[0], i.dst[0]
        write = self._view(s, target, range(len(i.dims)))
        bases = s.addresses(source)
        if source.tensor:
            tensor = self.memory.tensors[source.tensor]
            buffer = self.memory.blobs[tensor.blob][tensor.offset : tensor.offset + tensor.bytes]
        else:
            buffer = self.local[source.space]
        size = source.dtype.bytes
        flat = buffer[: len(buffer) // size * size].view(source.dtype.numpy)
        offsets = _grid(i, dict(zip((n for n, _ in i.dims), source.strides, strict=True)))
        names = [n for n, _ in i.dims]
        forms = [b.form.split(names) for b in i.bounds]
        parts = [
            (_grid(i, dict(inner.terms)), s.values(outer), b.extent)
            for (inner, outer), b in zip(forms, i.bounds, strict=True)
        ]
        fill = evaluate.convert(np.asarray(i.fill), target.dtype)

        def gather(k: int) -> None:
            inside = np.asarray(True)
            for grid, values, extent in parts:
                position = grid + values[k]
                inside = inside & (position >= 0) & (position < extent)
            where = np.where(inside, bases[k] + offsets, 0) // size
            if where.size and (int(where.min()) < 0 or int(where.max()) >= len(flat)):
                raise _outside(s, source, int(where.max()) * size, len(buffer))
            view = write(k)
            view[...] = np.where(inside, evaluate.convert(flat[where], target.dtype), fill)

        return gather

    def _elementwise(self, s: Static, op: str) -> Action:
        i = s.instruction
        target = i.dst[0].dtype
        dims = range(len(i.dims))
        typed = i.src[1:] if op == "select" else i.src
        known = [a.dtype for a in typed if isinstance(a, Region)]
        kind = evaluate.compute_type(known, [a.value for a in typed if isinstance(a, Imm)], target)
        write = self._view(s, i.dst[0], dims)
        reads = [_literal(a.value, kind) if isinstance(a, Imm) else self._view(s, a, dims) for a in i.src]
        if op == "drain":

            def drain(k: int) -> None:
                first, *extra = (r(k) for r in reads)
                values = evaluate.drain(first.astype(kind.numpy), i.scale, extra)
                write(k)[...] = evaluate.convert(values, target)

            return drain

        def compute(k: int) -> None:
            values = evaluate.elementwise(op, [r(k) for r in reads], kind)
            write(k)[...] = evaluate.convert(values, target)

        return compute

    def _iota(self, s: Static) -> Action:
        i = s.instruction
        assert i.form is not None, "verify: iota has a form"
        inner, outer = i.form.split([n for n, _ in i.dims])
        grid, values = _grid(i, dict(inner.terms)), s.values(outer)
        write, dtype = self._view(s, i.dst[0], range(len(i.dims))), i.dst[0].dtype

        def iota(k: int) -> None:
            write(k)[...] = evaluate.convert(grid + values[k], dtype)

        return iota

    def _mma(self, s: Static) -> Action:
        i = s.instruction
        c, (a, b) = i.dst[0], i.sources
        batch, rows, columns, inner = _roles(i)
        left = self._view(s, a, (*batch, *rows, *inner))
        right = self._view(s, b, (*batch, *inner, *columns))
        out = self._view(s, c, (*batch, *rows, *columns))
        nb, nm, nn, nk = (_size(i, group) for group in (batch, rows, columns, inner))
        init = s.values(i.init) if i.init is not None else None

        def mma(k: int) -> None:
            import numpy as np

            view = out(k)
            if init is not None and init[k] == 0:
                total = np.zeros((nb, nm, nn), view.dtype)
            else:
                total = np.array(view).reshape(nb, nm, nn)
            matmul(left(k).reshape(nb, nm, nk), right(k).reshape(nb, nk, nn), total)
            view[...] = total.reshape(view.shape)

        return mma

    def _reduce(self, s: Static, op: str) -> Action:
        i = s.instruction
        kept = [n for n in range(len(i.dims)) if any(r.strides[n] for r in i.dst)]
        axes = tuple(n for n in range(len(i.dims)) if n not in kept)
        outs = [self._view(s, r, kept) for r in i.dst]
        sources = [self._view(s, r, range(len(i.dims))) for r in i.sources]
        init = s.values(i.init) if i.init is not None else None
        counts = s.values(i.form) if i.form is not None else None
        inner = i.dst[0].dtype.compute.numpy

        def reduce(k: int) -> None:
            views = [out(k) for out in outs]
            first, *rest = (source(k) for source in sources)
            values = first.astype(inner)
            old = None if init is not None and init[k] == 0 else [v.astype(inner) for v in views]
            results: tuple[Array, ...]
            if op == "reduce_moments":
                pair = None if old is None else (old[0], old[1])
                results = evaluate.reduce_moments(values, axes, counts[k] if counts else 0, pair)
            elif op.startswith("reduce_arg"):
                pair = None if old is None else (old[0], views[1])
                results = evaluate.reduce_winner(op[7:], values, rest[0], axes, pair)
            else:
                results = (evaluate.reduce_plain(op[7:], values, axes, None if old is None else old[0]),)
            for view, region, result in zip(views, i.dst, results, strict=True):
                view[...] = evaluate.convert(result, region.dtype)

        return reduce


def _literal(value: float | int, kind: DType) -> Callable[[int], Array]:
    import numpy as np

    literal = np.asarray(value).astype(kind.numpy)
    return lambda k: literal


def _size(i: Instruction, dims: Iterable[int]) -> int:
    n = 1
    for d in dims:
        n *= i.dims[d][1]
    return n


def _roles(i: Instruction) -> tuple[list[int], list[int], list[int], list[int]]:
    """The dimensions of a product: (batch, rows, columns, reduced)."""
    c, (a, b) = i.dst[0], i.sources
    groups: tuple[list[int], list[int], list[int], list[int]] = ([], [], [], [])
    for n in range(len(i.dims)):
        if not c.strides[n]:
            groups[3].append(n)
        elif a.strides[n] and b.strides[n]:
            groups[0].append(n)
        else:
            groups[2 if b.strides[n] else 1].append(n)
    return groups


def _grid(i: Instruction, coefficients: Mapping[str, int]) -> Array:
    """``sum(coefficient * dim)`` over the instruction's box."""
    import numpy as np

    total = np.zeros(i.extents, np.int64)
    for axis, (name, extent) in enumerate(i.dims):
        step = coefficients.get(name, 0)
        if step:
            shape = [1] * len(i.dims)
            shape[axis] = extent
            total += (np.arange(extent, dtype=np.int64) * step).reshape(shape)
    return total


def _outside(s: Static, region: Region, address: int, size: int) -> Exception:
    place = region.tensor or region.space
    message = f"'{s.instruction.mnemonic}' of line {s.instruction.line} accesses {place} at byte {address}, "
    return fail(ListingError, "E0832", message + f"outside its {size} bytes", help="prove the listing first")


def simulate(
    listing: Listing, arrays: Mapping[str, Array], machine: Machine | None = None
) -> dict[str, Array]:
    """Run every phase on every core; the tensors that the listing writes, by name."""
    import numpy as np

    machine = machine or load(listing.machine)
    memory = GlobalMemory(listing, arrays)
    with np.errstate(all="ignore"):
        for phase in listing.phases:
            for core in range(min(machine.cores, phase.extent)):
                trace = expand(phase, phase.iterations(core, machine.cores))
                Core(trace, memory, machine).run(trace.order)
    return {name: memory.array(name) for name in memory.results}
