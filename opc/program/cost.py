"""What an instruction costs: the cycles it takes on its pipe (``opc.program.pipes`` says which).

One formula over an instruction's shape, shared by the scheduler (program IR) and the NPU's timing
simulator (listing), so that both mean the same figures. Everything comes from the machine file; the cost
depends on the shape only, never on loop values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, gcd

from opc.dtypes import DType
from opc.machine.model import Gather, Machine, Route, VectorCost
from opc.program.ir import Access, Buffer, Instr

_UNIT = VectorCost(0.0, 1.0, 0.0)
_WITH_LITERAL = {"add": "adds", "sub": "adds", "mul": "muls", "max": "maxs", "min": "mins"}
_GENERAL = {"adds": "add", "muls": "mul", "maxs": "max", "mins": "min", "convert": "copy", "fill": "copy"}
_COMPARES = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


@dataclass(frozen=True, slots=True)
class Cost:
    """``occupancy``: cycles until the pipe takes its next instruction. ``latency``: cycles until
    the results can be read (and the sources overwritten), counted from the same start.
    """

    occupancy: float
    latency: float


@dataclass(frozen=True, slots=True)
class Stream:
    """One operand as costs see it: its space, element type, and bytes between neighbours per dimension."""

    space: str
    dtype: DType
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What a copy picks columns of an image by: how many source columns apart two neighbours are, how many
    of them one image row has, and how many image rows.
    """

    step: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Shape:
    """All that an instruction's cost depends on: class, operation, box, and operands (dst first)."""

    opcode_class: str
    op: str
    extents: tuple[int, ...]
    destinations: tuple[Stream, ...]
    sources: tuple[Stream, ...]
    window: Window | None = None


def cycles(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> Cost:
    """Occupancy and latency of ``instr`` on its pipe, in cycles of the machine's clock."""
    return cost_of(shape_of(instr, buffers, machine), machine)


def shape_of(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> Shape:
    """The shape of a program instruction; loop variables do not matter."""
    return Shape(
        instr.opcode_class,
        instr.op,
        tuple(e for _, e in instr.dims),
        tuple(_stream(a, instr, buffers) for a in instr.dst),
        tuple(_stream(a, instr, buffers) for a in instr.sources),
        window_of(instr, buffers, machine),
    )


def window_of(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> Window | None:
    """The window of a copy into an operand of the cube; None where it only moves a matrix.

    Along each source axis the dim that moves furthest in the operand walks over output points; the others
    are the window's taps. The innermost axis with such a dim, channels apart, holds the columns.
    """
    if instr.opcode != "copy_in.copy":
        return None
    target = buffers[instr.dst[0].buffer]
    space = machine.spaces.get(target.space)
    if space is None or space.fractal is None:
        return None
    extents = instr.extents
    far = dict(zip(extents, _stream(instr.dst[0], instr, buffers).strides, strict=True))
    walks: list[tuple[int, str]] = []  # how far a step goes along the axis, and its dim; innermost axis first
    for form in reversed(instr.sources[0].index):
        steps = [(far[name], abs(c), name) for name, c in form.terms if extents.get(name, 1) > 1]
        if steps and max(steps)[0] > target.dtype.bytes:
            walks.append((max(steps)[1], max(steps)[2]))
    if not walks:
        return None
    step, column = walks[0]
    near = dict(zip(extents, _stream(instr.sources[0], instr, buffers).strides, strict=True))
    dense = near[column] * extents[column]  # image rows that touch are one long row
    rows = [extents[n] for _, n in walks[1:2] if far[n] > far[column] and near[n] != dense]
    window = Window(step, extents[column], *(rows or [1]))
    return window if step > 1 or window.rows > 1 else None


def _stream(access: Access, instr: Instr, buffers: Mapping[str, Buffer]) -> Stream:
    buffer = buffers[access.buffer]
    strides: dict[str, int] = dict.fromkeys((n for n, _ in instr.dims), 0)
    pitch = buffer.dtype.bytes
    for form, extent in zip(reversed(access.index), reversed(buffer.shape), strict=False):
        for name, coefficient in form.terms:
            if name in strides:
                strides[name] += coefficient * pitch
        pitch *= extent
    return Stream(buffer.space, buffer.dtype, tuple(strides.values()))


def cost_of(shape: Shape, machine: Machine) -> Cost:
    """Occupancy and latency of an instruction of that shape."""
    if shape.opcode_class == "sync":
        return Cost(machine.sync_cycles, machine.sync_cycles)
    if shape.opcode_class == "cube":
        return _product_cost(shape, machine)
    if shape.op == "prefetch":
        lines = float(_repeats(shape.sources[0], shape, machine.line_bytes))
        return Cost(lines, lines)
    source = shape.sources[0] if shape.sources else shape.destinations[0]
    route = machine.route(shape.opcode_class, source.space, shape.destinations[0].space)
    if shape.opcode_class == "vector" and (route is None or route.pipe == machine.vector_pipe):
        return _vector_cost(shape, machine)
    if route is None:
        width = machine.vector_bytes or 1
        busy = float(max(1, _repeats(shape.destinations[0], shape, width)))
        return Cost(busy, busy)
    size = float(_charged_bytes(shape, machine, route.burst))
    if shape.window is not None and route.gather is not None:
        size *= slower(shape.window, route.gather, machine.spaces[shape.destinations[0].space].fractal)
    return transfer_cost(route, size)


def slower(window: Window, gather: Gather, fractal: tuple[int, int] | None) -> float:
    """How many times longer it takes to fill an operand through the window than from a matrix."""
    height = fractal[0] if fractal else 1
    fractals = ceil(window.columns * window.rows / height)
    plain = gather.fixed + gather.step
    if window.step not in gather.steps:
        return gather.worst / plain
    # Image rows that end inside a fractal: it then takes columns from one more of them.
    ends = (window.rows - 1) - (window.rows - 1) // (height // gcd(window.columns, height))
    mixed = min(ends, fractals)
    full = min(gather.worst, gather.fixed + gather.step * window.step)
    broken = min(gather.worst, full + gather.row * (ends / mixed + 1)) if mixed else full
    return (full * (fractals - mixed) + broken * mixed) / (plain * fractals)


def cube_cost(blocks: float, machine: Machine, products: int = 1) -> Cost:
    """Of so many matrix instructions, one behind the other, over that many blocks together."""
    busy = products * machine.cube_issue + machine.cube_block * blocks
    return Cost(busy, busy + machine.cube_latency)


def transfer_cost(route: Route, size: float) -> Cost:
    """Of one transfer of ``size`` charged bytes."""
    busy = route.head + size / route.bandwidth
    return Cost(busy, max(busy, _arrival(route, size)) if route.curve else busy + route.latency)


def _arrival(route: Route, size: float) -> float:
    """When the data of a transfer is there, by the curve: its first line goes on before it, the rate behind."""
    last = route.curve[-1]
    if size >= last[0]:
        return last[1] + (size - last[0]) / route.bandwidth
    (x0, y0), (x1, y1) = next(pair for pair in pairwise(route.curve) if size < pair[1][0])
    return max(0.0, y0 + (y1 - y0) * (size - x0) / (x1 - x0))


def vector_cost(model: VectorCost, repeats: float, units: int = 1) -> Cost:
    """Of one vector instruction of that many repeats, dealt evenly to the vector units."""
    busy = max(model.floor, model.fixed + model.slope * (ceil(repeats / units) if units > 1 else repeats))
    return Cost(busy, model.head + busy + model.tail)


def vector_model(machine: Machine, operation: str, source: str, result: str) -> VectorCost:
    """The figures for an operation on these types: those that say most about it."""
    return listed(machine, operation, source, result) or machine.vector_costs.get("default", _UNIT)


def listed(machine: Machine, operation: str, source: str, result: str) -> VectorCost | None:
    """The figures that the machine file has for an operation, whole families included."""
    costs = machine.vector_costs
    for name in _families(operation):
        for key in (f"{name}.{source}.{result}", f"{name}.{source}", name):
            if key in costs:
                return costs[key]
    return None


def _families(operation: str) -> tuple[str, ...]:
    """The operation, then what it is a case of."""
    if operation in _COMPARES:
        return operation, "compare"
    if operation.startswith("reduce_"):
        return operation, "reduce"
    return (operation, _GENERAL[operation]) if operation in _GENERAL else (operation,)


def work(instr: Instr) -> int:
    """Elements of the iteration box."""
    return _elements(tuple(e for _, e in instr.dims))


def _elements(extents: tuple[int, ...]) -> int:
    count = 1
    for extent in extents:
        count *= extent
    return count


def _runs(stream: Stream, extents: tuple[int, ...]) -> tuple[int, int]:
    run, runs = 1, 1
    moving = [(s, e) for s, e in zip(stream.strides, extents, strict=True) if e > 1]
    for step, extent in sorted(moving, key=lambda item: (item[0] == 0, item[0])):
        if step == run * stream.dtype.bytes and runs == 1:
            run *= extent
        else:
            runs *= extent
    return run, runs


def _charged_bytes(shape: Shape, machine: Machine, burst: int) -> int:
    """Bytes a transfer is charged for: each run that is contiguous on every side pays at least one burst.

    A copy that turns an array therefore moves single elements. Spaces with a fractal reorder inside
    the block, so their side never breaks a run.
    """
    sides = []
    moved = shape.sources[:1] if shape.opcode_class == "scale" else shape.sources  # factors are no stream
    for stream in (shape.destinations[0], *moved):
        space = machine.spaces.get(stream.space)
        if space is None or space.fractal is None:
            sides.append(stream)
    elements = _elements(shape.extents)
    run = elements if not sides else _common_run(sides, shape.extents)
    widest = max(s.dtype.bytes for s in (shape.destinations[0], *moved))
    return elements // run * max(burst, run * widest)


def _common_run(streams: list[Stream], extents: tuple[int, ...]) -> int:
    """Elements that lie side by side, in the same order, in every stream."""
    run = 1
    moving = [i for i, e in enumerate(extents) if e > 1]
    while True:
        next_dim = next(
            (i for i in moving if all(s.strides[i] == run * s.dtype.bytes for s in streams)), None
        )
        if next_dim is None:
            return run
        run *= extents[next_dim]
        moving.remove(next_dim)


def _product_cost(shape: Shape, machine: Machine) -> Cost:
    """Of a cube instruction; dims of all three operands count as a batch, each product of which is issued by itself."""
    left, right = shape.sources[:2]
    m = n = k = batch = 1
    dims = zip(shape.extents, shape.destinations[0].strides, left.strides, right.strides, strict=True)
    for extent, kept, in_left, in_right in dims:
        if not kept:
            k *= extent
        elif in_left and in_right:
            batch *= extent
        elif in_left:
            m *= extent
        else:
            n *= extent
    fallback = (1, max(1, machine.vector_bytes // left.dtype.bytes), 1)
    m0, n0, k0 = machine.cube_shape.get(left.dtype, fallback)
    return cube_cost(batch * ceil(m / m0) * ceil(n / n0) * ceil(k / k0), machine, batch)


def _vector_cost(shape: Shape, machine: Machine) -> Cost:
    result = shape.destinations[0]
    source = shape.sources[0] if shape.sources else result
    model = vector_model(machine, _operation(shape), source.dtype, result.dtype)
    # A reduction streams its source; everything else is paced by what it writes.
    paced = source if shape.op.startswith("reduce_") else result
    return vector_cost(model, _repeats(paced, shape, machine.vector_bytes or 1), machine.vector_units)


def _operation(shape: Shape) -> str:
    """The operation as costs name it: with a literal operand, or a copy that converts, it is another one."""
    if shape.op != "copy":
        return _WITH_LITERAL.get(shape.op, shape.op) if len(shape.sources) == 1 else shape.op
    if not shape.sources:
        return "fill"
    return "copy" if shape.sources[0].dtype is shape.destinations[0].dtype else "convert"


def _repeats(stream: Stream, shape: Shape, width: int) -> int:
    """Vector steps of ``width`` bytes at the widest element type of the instruction."""
    widest = max(s.dtype.bytes for s in (*shape.destinations, *shape.sources))
    run, runs = _runs(stream, shape.extents)
    return runs * ceil(run * widest / width)
