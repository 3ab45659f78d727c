"""Whether ops that make an operand of a contraction are worth doing while it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, gcd, prod

from opc.dtypes import DType
from opc.machine.model import Machine
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Op, Read, Tensor, walk
from passes.tensor._algebra import expr_dims
from passes.tensor._contraction import Contraction
from passes.tensor._cube_affine import Linear, kept

# Columns that a tile of the result has, where the problem has as many.
_TILE_COLUMNS = 128


def stages(c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    """Whether operands pass a staging memory on their way to the cube."""
    if not machine.feeds(tensors[c.a.tensor].dtype) or "stage" not in machine.roles:
        return False
    return machine.route("copy_in", machine.roles["memory"], machine.roles["operand_b"]) is None


def works_on_operands(c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    """Whether a tile of an operand may pass the vector unit's memory as well."""
    if not stages(c, tensors, machine) or not machine.role("vector").addressable:
        return False
    return machine.route("copy_out", machine.roles["vector"], machine.roles["stage"]) is not None


def prologue_pays(op: Op, root: Op, c: Contraction, tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    """Whether making elements once more where tiles overlap takes less time than storing and loading all."""
    out, roles = op.outputs[0], machine.roles
    elements = prod(out.shape)
    routes = (
        machine.route("copy_out", roles["vector"], roles["memory"]),
        machine.route("copy_in", roles["memory"], roles["stage"]),
    )
    moved = sum(out.dtype.bytes / r.bandwidth for r in routes if r is not None)
    made = vector_cycles((op,), c, tensors, machine)
    return elements * moved > elements * made * _again(root, c, tensors[c.a.tensor], machine)


def shared_prologue_pays(
    op: Op, root: Op, c: Contraction, tensors: Mapping[str, Tensor], machine: Machine
) -> bool:
    """Whether an operand that others read too is made while it is loaded, and stored on the way. It takes as long as
    before to make, but beside the products; what is made once more must not outweigh that.
    """
    if not _stored_once(root, c, tensors[c.a.tensor]):
        return False
    made = prod(op.outputs[0].shape) * vector_cycles((op,), c, tensors, machine)
    extents = root.pieces[0].extents
    blocks = prod(extents.values()) / prod(machine.cube_shape[tensors[c.a.tensor].dtype])
    return made * _again(root, c, tensors[c.a.tensor], machine) < min(made, machine.cube_block * blocks)


def _stored_once(root: Op, c: Contraction, operand: Tensor) -> bool:
    """Whether tiles of rows hold every element of the operand in their middle, and cores share none."""
    extents, rows = root.pieces[0].extents, {d.name for d in c.m}
    alone = False
    for form, extent in zip(c.a.index, operand.shape, strict=True):
        mine = [(n, k) for n, k in form.terms if n in rows]
        low, high = form.interval(extents)
        if len(mine) > 1 or any(abs(k) != 1 for _, k in form.terms) or low > 0 or high < extent - 1:
            return False
        if mine and (mine[0][1] < 0 or (len(form.terms) > 1 and extents[mine[0][0]] > extent)):
            return False
        alone = alone or (bool(mine) and len(form.terms) == 1 and extent > 1)
    return alone and not c.batch


def _again(root: Op, c: Contraction, operand: Tensor, machine: Machine) -> float:
    """Elements that are made more than once, as a share of all, if tiles are as long as the innermost rows allow: where
    windows of tiles overlap, and for every tile of columns where the staging memory cannot keep what a tile reads.
    """
    extents = root.pieces[0].extents
    rows = {d.name for d in c.m}
    columns = min(_TILE_COLUMNS, prod(d.extent for d in c.n))
    # Half of the accumulators hold one tile, the other half the next.
    share, room = 1.0, machine.role("accumulator").capacity // (2 * 4 * columns)
    kept = float(operand.size * operand.dtype.bytes)
    for d in reversed(c.m):
        form = next(f for f in c.a.index if f.coefficient(d.name))
        size = min(d.extent, max(1, room))
        room //= max(1, d.extent)
        kept *= size / d.extent
        window = sum(abs(k) * (extents[n] - 1) for n, k in form.terms if n not in rows)
        step = abs(form.coefficient(d.name)) * size
        if size < d.extent:
            share *= max(1.0, (step + window) / step)
    if kept > machine.role("stage").capacity:
        share *= ceil(prod(d.extent for d in c.n) / columns)
    return share - 1.0


def touched(read: Read, extents: Mapping[str, int], tensor: Tensor) -> int:
    """Elements of an operand that a contraction of such extents reads, each counted once."""
    count = 1
    for form, extent in zip(read.index, tensor.shape, strict=True):
        low, high = form.interval(extents)
        step = gcd(*(abs(k) for n, k in form.terms if extents[n] > 1)) or 1
        count *= min(extent, (high - low) // step + 1)
    return count


def vector_cycles(
    ops: Sequence[Op], c: Contraction, tensors: Mapping[str, Tensor], machine: Machine
) -> float:
    """Vector cycles per element of what varies from row to row of the operand that ``ops`` make."""
    rows = {d.name for d in c.m}
    moving = {
        f.as_var() for f, used in zip(ops[-1].pieces[0].index, c.a.index, strict=True) if used.names & rows
    }
    total = 0.0
    for node in dict.fromkeys(n for op in ops for n in walk(op.pieces[0].body)):
        if expr_dims(node) & moving:
            total += _slope(node, tensors, machine)
    return total * DType.F32.bytes / machine.vector_bytes


def drained_cycles(op: Op, linear: Linear, tensors: Mapping[str, Tensor], machine: Machine) -> float:
    """The same where the cube makes a combination: its way out, and what is left to do to it."""
    out, roles = op.outputs[0].dtype, machine.roles
    wide = machine.accumulators[out]
    route = machine.route("scale", roles["accumulator"], roles["vector"])
    cycles = wide.bytes / route.bandwidth if route is not None else 0.0
    forms = {"convert": out.value, "relu": "max"}
    free = {fn for form, fn in forms.items() if form in machine.scale_forms}
    left = [n for n in kept(op.pieces[0].body, linear) if n.fn not in free]
    return cycles + sum(_slope(n, tensors, machine) for n in left) * DType.F32.bytes / machine.vector_bytes


def _slope(node: Expr, tensors: Mapping[str, Tensor], machine: Machine) -> float:
    """Cycles per vector of an operation, by its form with a literal where it has one; a narrow read is converted."""
    if isinstance(node, Read):
        dtype = tensors[node.tensor].dtype
        names = ["convert"] if dtype.compute is not dtype else []
    elif isinstance(node, Call) and FUNCTIONS[node.fn].kind == "cast":
        names = ["convert"]
    elif isinstance(node, Call):
        literal = any(isinstance(a, Const) for a in node.args)
        names = [f"{node.fn}s", node.fn] if literal else [node.fn]
    else:
        names = []
    costs = machine.vector_costs
    found = next((costs[n] for n in (*names, "default") if n in costs), None) if names else None
    return found.slope if found is not None else float(bool(names))
