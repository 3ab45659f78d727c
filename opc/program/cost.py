"""What an instruction costs: the cycles it takes on its pipe (``opc.program.pipes`` says which).

Shared by the scheduler and by the NPU's timing simulator, so that both mean the same figures.
Everything comes from the machine file; an instruction's cost depends on its shape only, never on
loop values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from opc.machine.model import Machine, VectorCost
from opc.program.ir import Access, Buffer, Instr
from opc.program.pipes import route_of

_UNIT = VectorCost(0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Cost:
    """``occupancy``: cycles until the pipe takes its next instruction. ``latency``: cycles until
    the results can be read (and the sources overwritten), counted from the same start.
    """

    occupancy: float
    latency: float


def cycles(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> Cost:
    """Occupancy and latency of ``instr`` on its pipe, in cycles of the machine's clock."""
    kind = instr.opcode_class
    if kind == "sync":
        return Cost(machine.sync_cycles, machine.sync_cycles)
    if kind == "cube":
        busy = machine.cube_issue + _blocks(instr, buffers, machine)
        return Cost(busy, busy + machine.cube_latency)
    if kind == "vector":
        return _vector_cost(instr, buffers, machine)
    route = route_of(instr, buffers, machine)
    if route is None:
        width = machine.vector_bytes or 1
        busy = float(max(1, _repeats(instr.dst[0], instr, buffers, width)))
        return Cost(busy, busy)
    busy = route.head + _charged_bytes(instr, buffers, machine, route.burst) / route.bandwidth
    return Cost(busy, busy + route.latency)


def work(instr: Instr) -> int:
    """Elements of the iteration box."""
    count = 1
    for _, extent in instr.dims:
        count *= extent
    return count


def contiguous_run(access: Access, instr: Instr, buffers: Mapping[str, Buffer]) -> tuple[int, int]:
    """(elements in one contiguous run, number of runs) of an access over the iteration box."""
    strides: dict[str, int] = dict.fromkeys((n for n, _ in instr.dims), 0)
    stride = 1
    shape = buffers[access.buffer].shape
    for form, extent in zip(reversed(access.index), reversed(shape), strict=False):
        for name, coefficient in form.terms:
            if name in strides:
                strides[name] += coefficient * stride
        stride *= extent
    run, runs = 1, 1
    moving = [(strides[n], e) for n, e in instr.dims if e > 1]
    for step, extent in sorted(moving, key=lambda item: (item[0] == 0, item[0])):
        if step == run and runs == 1:
            run *= extent
        else:
            runs *= extent
    return run, runs


def _charged_bytes(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine, burst: int) -> int:
    """Bytes a transfer is charged for: each contiguous run pays at least one burst.

    Spaces with a fractal reorder inside the block, so their side never breaks a run.
    """
    charged = 0
    for access in (instr.dst[0], *instr.sources):
        buffer = buffers[access.buffer]
        space = machine.spaces.get(buffer.space)
        if space is not None and space.fractal is not None:
            run, runs = work(instr), 1
        else:
            run, runs = contiguous_run(access, instr, buffers)
        charged = max(charged, runs * max(burst, run * buffer.dtype.bytes))
    return charged


def _blocks(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> int:
    """Matrix blocks of a cube instruction; dims of all three operands count as a batch."""
    kept = _dims_of(instr.dst[0])
    left, right = (_dims_of(s) for s in instr.sources[:2])
    m = n = k = batch = 1
    for name, extent in instr.dims:
        if name not in kept:
            k *= extent
        elif name in left and name in right:
            batch *= extent
        elif name in left:
            m *= extent
        else:
            n *= extent
    dtype = buffers[instr.sources[0].buffer].dtype
    m0, n0, k0 = machine.cube_shape.get(dtype, (1, max(1, machine.vector_bytes // dtype.bytes), 1))
    return batch * ceil(m / m0) * ceil(n / n0) * ceil(k / k0)


def _dims_of(access: Access) -> frozenset[str]:
    return frozenset(name for form in access.index for name, _ in form.terms)


def _vector_cost(instr: Instr, buffers: Mapping[str, Buffer], machine: Machine) -> Cost:
    costs = machine.vector_costs
    family = "reduce" if instr.op.startswith("reduce_") else instr.op
    model = costs.get(instr.op) or costs.get(family) or costs.get("default") or _UNIT
    # A reduction streams its source; everything else is paced by what it writes.
    paced = instr.sources[0] if family == "reduce" and instr.sources else instr.dst[0]
    busy = model.slope * _repeats(paced, instr, buffers, machine.vector_bytes or 1)
    return Cost(max(1.0, busy), max(1.0, model.head + busy + model.tail))


def _repeats(access: Access, instr: Instr, buffers: Mapping[str, Buffer], width: int) -> int:
    """Vector steps of ``width`` bytes at the widest element type of the instruction."""
    widest = max(buffers[a.buffer].dtype.bytes for a in (*instr.dst, *instr.sources))
    run, runs = contiguous_run(access, instr, buffers)
    return runs * ceil(run * widest / width)
