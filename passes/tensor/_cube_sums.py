"""Which sums over the rows of a product's tile the cube takes: as products with the tile itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from opc.machine.model import Machine
from opc.program.cost import vector_model
from opc.tensor.ir import Call, Expr, Op, Read, Tensor
from passes.tensor._contraction import Contraction
from passes.tensor._cube_affine import Linear, is_halved, linear_of
from passes.tensor._prologue import drained_cycles, touched, vector_cycles, works_on_operands

_KEEPS = ("f32", "f16")  # casts that leave an f16 value as it is
Pipes = dict[str, float]


def cube_sums(
    ops: Sequence[Op],
    root: Op,
    c: Contraction,
    tensors: Mapping[str, Tensor],
    machine: Machine,
    linear: Linear | None = None,
) -> tuple[Op, ...]:
    """Of a group's ops those whose terms the cube adds up: if that keeps the pipe with the most work shorter. It makes
    ``linear`` too.

    A term is a value of the tile, or the product of two in the same place, in a type that the cube multiplies: sums of
    values are a product with ones, sums of products the diagonal of one with a transposed tile.
    """
    if not works_on_operands(c, tensors, machine) or c.batch or sum(d.extent > 1 for d in c.n) > 1:
        return ()
    inside = {t.name for op in ops if op.monoid is None or op is root for t in op.outputs}
    found = tuple(op for op in ops if op is not root and _fits(op, inside, tensors, machine))
    if not found:
        return ()
    others = [op for op in ops if op.monoid is not None and op is not root and op not in found]
    before = _work([*others, *found], [], root, c, ops, tensors, machine, linear)
    after = _work(others, found, root, c, ops, tensors, machine, linear)
    return found if max(after.values()) < max(before.values()) else ()


def factors(op: Op) -> tuple[Read, ...]:
    """The reads whose product is summed up; none if the terms are something else."""
    body = _bare(op.pieces[0].body)
    if isinstance(body, Read):
        return (body,)
    if not isinstance(body, Call) or body.fn != "mul":
        return ()
    found = tuple(f for f in map(_bare, body.args) if isinstance(f, Read))
    return found if len(found) == 2 else ()


def cube_affine(
    ops: Sequence[Op], root: Op, c: Contraction, tensors: Mapping[str, Tensor], machine: Machine
) -> Linear | None:
    """What the cube makes of a group's operand: a combination whose coefficients it multiplies as they are, if that
    keeps the pipe with the most work shorter.
    """
    before = _before(ops, root, c)
    if len(before) != 1 or not works_on_operands(c, tensors, machine):
        return None
    found = linear_of(before[0], c, tensors, machine)
    if found is None or not is_halved(found, tensors[c.a.tensor].dtype, tensors):
        return None
    group = (ops, root, c, tensors, machine)
    return found if busiest(*group, linear=found) < busiest(*group) else None


def busiest(
    ops: Sequence[Op],
    root: Op,
    c: Contraction,
    tensors: Mapping[str, Tensor],
    machine: Machine,
    linear: Linear | None = None,
) -> float:
    """Cycles per result of the pipe with the most work, once the group's sums are where they belong. ``linear``: what
    the cube makes of the operand.
    """
    placed = cube_sums(ops, root, c, tensors, machine, linear)
    others = [op for op in ops if op.monoid is not None and op is not root and op not in placed]
    return max(_work(others, placed, root, c, ops, tensors, machine, linear).values())


def _before(ops: Sequence[Op], root: Op, c: Contraction) -> list[Op]:
    return [op for op in ops if op.monoid is None and op is not root and op.name == c.a.tensor]


def is_summed(op: Op, tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    """Whether an op sums up values, or products of two, in a type that the cube multiplies and adds up as it does."""
    types = {tensors[r.tensor].dtype for r in factors(op)}
    if op.monoid != "sum" or len(types) != 1:
        return False
    dtype, total = next(iter(types)), op.accumulate or op.outputs[0].dtype
    return machine.feeds(dtype) and machine.accumulators.get(dtype) is total and total.is_float


def _fits(op: Op, inside: set[str], tensors: Mapping[str, Tensor], machine: Machine) -> bool:
    return is_summed(op, tensors, machine) and all(r.tensor in inside for r in factors(op))


def _bare(expr: Expr) -> Expr:
    while isinstance(expr, Call) and expr.fn in _KEEPS:
        expr = expr.args[0]
    return expr


def _work(
    summed: Sequence[Op],
    placed: Sequence[Op],
    root: Op,
    c: Contraction,
    ops: Sequence[Op],
    tensors: Mapping[str, Tensor],
    machine: Machine,
    linear: Linear | None,
) -> Pipes:
    """Cycles per result on the pipes that sums may lengthen, vector, cube, and the one out of the vector's memory, and
    on the one that brings operands: where each core waits for all columns nothing is gained.
    """
    operand, roles = tensors[c.a.tensor].dtype, machine.roles
    wide, width = machine.accumulators[operand], machine.vector_bytes
    m0, n0, k0 = machine.cube_shape[operand]
    results = prod(d.extent for d in root.pieces[0].dims)
    load = machine.route("copy_in", roles["memory"], roles["stage"])
    used = touched(c.a, root.pieces[0].extents, tensors[c.a.tensor])
    loaded = used + machine.cores * prod(tensors[c.b.tensor].shape)
    drain = machine.route("scale", roles["accumulator"], roles["vector"])
    hand = machine.route("copy_out", roles["vector"], roles["stage"])
    store = machine.route("copy_out", roles["vector"], roles["memory"])
    pipes: Pipes = {machine.vector_pipe: 0.0, machine.cube_pipe: 0.0}

    def add(pipe: str, cycles: float) -> None:
        pipes[pipe] = pipes.get(pipe, 0.0) + cycles

    def slope(operation: str) -> float:
        return vector_model(machine, operation, wide, wide).slope

    add(machine.cube_pipe, prod(d.extent for d in c.k) * machine.cube_block / (m0 * n0 * k0))
    moves = (
        (load, loaded / results * operand.bytes),
        (drain, wide.bytes),
        (store, root.outputs[0].dtype.bytes),
    )
    for route, size in moves:
        if route is not None:
            add(route.pipe, size / route.bandwidth)
    for op in summed:
        products = len(factors(op)) > 1 and op.monoid == "sum"
        cycles = slope(f"reduce_{op.monoid}") + products * slope("mul")
        add(machine.vector_pipe, cycles * wide.bytes / width)
    if not placed:
        add(machine.vector_pipe, slope("convert") * wide.bytes / width)
    assert hand is not None, "works_on_operands asks for it"
    for name in sorted({r.tensor for op in placed for r in factors(op)}):
        add(hand.pipe, tensors[name].dtype.bytes / hand.bandwidth)
    for op in placed:
        rows = n0 if len(factors(op)) > 1 else m0  # a block of the tile by its like, or by ones
        add(machine.cube_pipe, rows * machine.cube_block / (m0 * n0 * k0))
    for before in _before(ops, root, c):
        for pipe, cycles in _begin(before, c, tensors, machine, linear):
            add(pipe, cycles * used / results)
        add(hand.pipe, operand.bytes / hand.bandwidth * used / results)
    return pipes


def _begin(
    op: Op, c: Contraction, tensors: Mapping[str, Tensor], machine: Machine, linear: Linear | None
) -> Iterator[tuple[str, float]]:
    """Cycles per element of the operand that an op makes."""
    if linear is None:
        yield machine.vector_pipe, vector_cycles((op,), c, tensors, machine)
        return
    m0, n0, _ = machine.cube_shape[op.outputs[0].dtype]
    yield machine.vector_pipe, drained_cycles(op, linear, tensors, machine)
    yield machine.cube_pipe, (linear.products + (linear.shift is not None)) * machine.cube_block / (m0 * n0)
