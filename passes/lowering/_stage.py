"""Staging: copy the box that a tile's read touches into a nearer space, padding applied.

The box is the hull of the read over the tile, thinned by the common step of each axis, so that
a strided 1x1 read stages only what it uses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.ir import Access
from opc.tensor.ir import Dim, Read, Tensor
from passes.lowering._axes import Frame
from passes.lowering._emit import Emitter, memory_access


@dataclass(frozen=True, slots=True)
class Box:
    """The staged part of one tensor axis: first index, step, count, and the tile-local index into it."""

    axis: int
    first: Affine
    step: int
    count: int
    local: Affine


def boxes(read: Read, tensor: Tensor, frame: Frame, last: Collection[str] = ()) -> list[Box]:
    """One box per tensor axis, slowest first; axes that vary only over ``last`` come last.

    Keeping those innermost makes the operand contiguous along the dimension the consumer streams.
    """
    extents = {n: s for a in frame.axes for n, s in a.dims if s > 1}
    found: list[Box] = []
    for axis in tensor.memory_order:
        form = frame.global_form(read.index[axis])
        local, base = form.split(extents)
        low, high = local.interval(extents)
        step = 0
        for _, c in local.terms:
            step = gcd(step, c)
        step = step or 1
        shifted = Affine(local.terms, -low)
        scaled = Affine(tuple((v, c // step) for v, c in shifted.terms), shifted.const // step)
        found.append(Box(axis, base + low, step, (high - low) // step + 1, scaled))
    wanted = set(last)
    return sorted(found, key=lambda b: bool(b.local.names) and b.local.names <= wanted)


def grouped(found: Sequence[Box], group: Dim | None) -> list[Box]:
    """The axis along which groups of neighbours lie, apart from the groups: these are an axis more, the last."""
    if group is None:
        return list(found)
    rest: list[Box] = []
    inner: list[Box] = []
    for b in found:
        step = b.local.coefficient(group.name)
        if not step:
            rest.append(b)
            continue
        groups = b.local.substitute({group.name: 0})
        whole = Affine(tuple((n, c // group.extent // step) for n, c in groups.terms))
        rest.append(Box(b.axis, b.first, b.step * group.extent, b.count // group.extent, whole))
        inner.append(Box(b.axis, Affine(), b.step, group.extent, Affine.var(group.name)))
    return [*rest, *inner]


def stage(
    emit: Emitter,
    read: Read,
    tensor: Tensor,
    frame: Frame,
    role: str,
    last: Collection[str] = (),
    dtype: DType | None = None,
    group: Dim | None = None,
) -> Access:
    """Emit the copy, converting to ``dtype``; the access that reads the box at the tile's local dimensions.
    Elements of a ``group`` lie next to each other.
    """
    found = boxes(read, tensor, frame, last)
    kept = [b for b in grouped(found, group) if b.count > 1] or found[-1:]
    name = emit.local(f"{tensor.name}_{role}", dtype or tensor.dtype, [b.count for b in kept], role)
    index = [b.first for b in sorted(found, key=lambda b: b.axis)]
    dims: list[tuple[str, int]] = []
    for b in kept:
        dim = group.name if group is not None and b.local == Affine.var(group.name) else f"h{b.axis}"
        dims.append((dim, b.count))
        index[b.axis] = index[b.axis] + Affine.var(dim, b.step)
    target = Access(name, tuple(Affine.var(d) for d, _ in dims))
    emit.emit("copy_in.copy", dims, [target], [memory_access(tensor, index)], fill=read.fill)
    return Access(name, tuple(b.local for b in kept))


def staged_bytes(read: Read, tensor: Tensor, frame: Frame) -> int:
    """Bytes that ``stage`` would copy."""
    total = tensor.dtype.bytes
    for b in boxes(read, tensor, frame):
        total *= b.count
    return total


@dataclass(frozen=True, slots=True)
class Slab:
    """A staged box of a tensor: its buffer, and per axis the first index and whether the buffer has the axis."""

    buffer: str
    axes: tuple[tuple[int, Affine, bool], ...]

    def at(self, index: Sequence[Affine]) -> Access:
        """Where the element of the tensor at ``index`` lies."""
        return Access(self.buffer, tuple(index[axis] - first for axis, first, kept in self.axes if kept))


Reading = tuple[Read, Mapping[str, int]]  # with the extents of the dimensions that vary


def stage_together(
    emit: Emitter, readings: Sequence[Reading], tensor: Tensor, room: int, fill: float | None
) -> Slab | None:
    """Stage the box that all reads of one tensor touch, ``fill`` outside it; None if it is larger than ``room``."""
    found = [_reach([(r.index[axis], extents) for r, extents in readings]) for axis in tensor.memory_order]
    if any(f is None for f in found):
        return None
    hulls = [f for f in found if f is not None]
    if tensor.dtype.bytes * prod(count for _, count in hulls) > room:
        return None
    axes = tuple(
        (axis, first, count > 1 or axis == tensor.memory_order[-1])
        for axis, (first, count) in zip(tensor.memory_order, hulls, strict=True)
    )
    dims = [(f"h{axis}", count) for (axis, _, kept), (_, count) in zip(axes, hulls, strict=True) if kept]
    name = emit.local(f"{tensor.name}_stage", tensor.dtype, [count for _, count in dims], "stage")
    index = [
        first + (Affine.var(f"h{axis}") if kept else 0)
        for axis, first, kept in sorted(axes, key=lambda a: a[0])
    ]
    target = Access(name, tuple(Affine.var(d) for d, _ in dims))
    emit.emit("copy_in.copy", dims, [target], [memory_access(tensor, index)], fill=fill)
    return Slab(name, axes)


def _reach(forms: Sequence[tuple[Affine, Mapping[str, int]]]) -> tuple[Affine, int] | None:
    """First index and count of what forms take; None if they start at unrelated places."""
    parts = [(form.split(extents), extents) for form, extents in forms]
    base = parts[0][0][1]
    ends = []
    for (local, rest), extents in parts:
        distance = rest - base
        if not distance.is_const:
            return None
        ends.append([end + distance.const for end in local.interval(extents)])
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    return base + low, high - low + 1


def stage_shared(
    emit: Emitter, read: Read, tensor: Tensor, frame: Frame, last: Collection[str], dtype: DType
) -> Access:
    """Like ``stage``, to memory that every core reads, in a phase that shares the copy out over a long axis."""
    found = boxes(read, tensor, frame, last)
    kept = [b for b in found if b.count > 1] or found[-1:]
    name = emit.workspace(f"{tensor.name}_stage", dtype, [b.count for b in kept])
    # Both ends of rows that are turned are copied at once; else, the slower the axis, the longer what is.
    spreadable = [b for b in kept[:-1] if b.axis != tensor.memory_order[-1]] or kept
    most = max(b.count for b in spreadable)
    spread = next(b for b in spreadable if 2 * b.count >= most)
    with emit.loop(f"h{spread.axis}_o", spread.count, parallel=True) as var:
        index = [b.first for b in sorted(found, key=lambda b: b.axis)]
        dims, target = [], []
        for b in kept:
            at = var if b is spread else Affine.var(f"h{b.axis}")
            dims += [] if b is spread else [(f"h{b.axis}", b.count)]
            index[b.axis] = index[b.axis] + at * b.step
            target.append(at)
        emit.emit(
            "copy_in.copy",
            dims,
            [Access(name, tuple(target))],
            [memory_access(tensor, index)],
            fill=read.fill,
        )
    return Access(name, tuple(b.local for b in kept))
