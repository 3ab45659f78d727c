"""Whether ops that make an operand of a contraction are worth doing while it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from opc.machine.model import Machine
from opc.tensor.ir import Call, Op, Tensor, walk
from passes.tensor._algebra import expr_dims
from passes.tensor._contraction import Contraction

# Columns that a tile of the result has, where the problem has as many.
_TILE_COLUMNS = 128


def works_on_operands(c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    """Whether a tile of an operand passes the vector unit's memory on its way to the cube."""
    operand, roles = tensors[c.a.tensor].dtype, machine.roles
    if not machine.feeds(operand) or "stage" not in roles or not machine.role("vector").addressable:
        return False
    through = machine.route("copy_out", roles["vector"], roles["stage"])
    return through is not None and machine.route("copy_in", roles["memory"], roles["operand_b"]) is None


def prologue_pays(op: Op, root: Op, c: Contraction, machine: Machine) -> bool:
    """Whether making elements once more where tiles overlap takes less time than storing and loading all."""
    out, roles = op.outputs[0], machine.roles
    elements = prod(out.shape)
    routes = (
        machine.route("copy_out", roles["vector"], roles["memory"]),
        machine.route("copy_in", roles["memory"], roles["stage"]),
    )
    moved = sum(out.dtype.bytes / r.bandwidth for r in routes if r is not None)
    slope = machine.vector_costs["default"].slope if "default" in machine.vector_costs else 1.0
    rows = {
        f.as_var()
        for f, g in zip(op.pieces[0].index, c.a.index, strict=True)
        if g.names & {d.name for d in c.m}
    }
    steps = sum(isinstance(n, Call) and bool(expr_dims(n) & rows) for n in walk(op.pieces[0].body))
    made = steps * slope * out.dtype.compute.bytes / machine.vector_bytes
    return elements * moved > elements * made * _again(root, c, machine)


def _again(root: Op, c: Contraction, machine: Machine) -> float:
    """Elements that are made more than once, as a share of all, if tiles are as long as the innermost rows allow."""
    extents = root.pieces[0].extents
    rows = {d.name for d in c.m}
    columns = min(_TILE_COLUMNS, prod(d.extent for d in c.n))
    # Half of the accumulators hold one tile, the other half the next.
    share, room = 1.0, machine.role("accumulator").capacity // (2 * 4 * columns)
    for d in reversed(c.m):
        form = next(f for f in c.a.index if f.coefficient(d.name))
        size = min(d.extent, max(1, room))
        room //= max(1, d.extent)
        window = sum(abs(k) * (extents[n] - 1) for n, k in form.terms if n not in rows)
        step = abs(form.coefficient(d.name)) * size
        if size < d.extent:
            share *= max(1.0, (step + window) / step)
    return share - 1.0
