"""How much arithmetic and traffic a kernel has, counted on its tensor IR."""

from __future__ import annotations

import math
from dataclasses import dataclass

from opc.machine.model import Machine
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Function, walk

# Converting a value or choosing one is no arithmetic.
_COUNTED = frozenset({"arithmetic", "float", "compare"})


@dataclass(frozen=True, slots=True)
class Work:
    """``operations``: scalar functions evaluated, a multiply-add counting as two. ``bytes``: arguments and
    results, each moved once: the least traffic any kernel can have.
    """

    operations: int
    bytes: int


def work_of(function: Function) -> Work:
    """Count the work of one call."""
    operations = 0
    for op in function.ops:
        for piece in op.pieces:
            calls = sum(isinstance(n, Call) and FUNCTIONS[n.fn].kind in _COUNTED for n in walk(piece.body))
            operations += math.prod(piece.extents.values()) * (calls + (op.monoid is not None))
    table = function.tensors()
    names = [a.tensor.name for a in function.args]
    names += [r for r in function.results if r not in names]
    return Work(operations, sum(table[n].size * table[n].dtype.bytes for n in names))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one core of a machine can do at best, as its file states: operations and bytes per second."""

    operations: float
    bytes: float


def limits_of(machine: Machine, function: Function) -> Limits:
    """Limits for the element type of the kernel's first argument; 0 where the file states nothing."""
    hertz = machine.clock_mhz * 1e6
    dtype = function.args[0].tensor.dtype if function.args else machine.default_dtype
    shape = machine.cube_shape.get(dtype)
    operations = 0.0
    if shape is not None and machine.cube_issue:
        operations = 2.0 * math.prod(shape) / machine.cube_issue * hertz
    memory = machine.roles.get("memory", "")
    rates = [r.bandwidth for r in machine.routes if r.source == memory and r.opcode_class == "copy_in"]
    return Limits(operations, max(rates, default=0.0) * hertz)
