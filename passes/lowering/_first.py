"""A sum that starts from what the epilogue would add to it, where the machine can write to its accumulators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.ir import Access
from opc.tensor.ir import Call, Expr, Op, Read, Tensor, rewrite, walk
from passes.lowering._axes import Frame
from passes.lowering._emit import Emitter
from passes.lowering._expr import Evaluator, Value


def can_start(machine: Machine, accumulator: str) -> bool:
    """Whether the machine has a way from the vector unit's memory into an accumulator."""
    spaces = (machine.roles.get("vector", ""), machine.roles.get(accumulator, ""))
    return "" not in spaces and machine.route("copy_in", *spaces) is not None


def first_term(
    ops: tuple[Op, ...], rows: Collection[str], tensors: dict[str, Tensor], stored: Collection[str]
) -> tuple[Op, Read, tuple[Op, ...]] | None:
    """The op that adds columns to the sum ``ops[0]``, what it adds, and the ops without that addition.

    None unless one addition, of a tensor from outside that varies along columns only, is all that reads the sum.
    """
    total = ops[0].name
    users = [
        op for op in ops[1:] for n in walk(op.pieces[0].body) if isinstance(n, Read) and n.tensor == total
    ]
    if len(users) != 1 or total in stored or users[0].monoid is not None:
        return None
    op, inside = users[0], {t.name for o in ops for t in o.outputs}
    found = next((pair for n in walk(op.pieces[0].body) if (pair := _addition(n, total)) is not None), None)
    if found is None:
        return None
    addition, value, term = found
    varies = any(form.names & set(rows) for form in term.index)
    if varies or term.tensor in inside or term.fill is not None:
        return None
    whole, kind = ops[0].outputs[0].dtype, tensors[term.tensor].dtype
    if whole.is_float != kind.is_float or whole is DType.I8:
        return None  # an i8 saturates before the addition
    body = rewrite(op.pieces[0].body, lambda n: value if n is addition else n)
    without = replace(op, pieces=(replace(op.pieces[0], body=body),))
    return op, term, tuple(without if o is op else o for o in ops)


def _addition(node: Expr, total: str) -> tuple[Call, Read, Read] | None:
    """(the node, the sum, the term) if the node adds two reads, one of them of the sum."""
    if not isinstance(node, Call) or node.fn != "add":
        return None
    a, b = node.args
    if not isinstance(a, Read) or not isinstance(b, Read):
        return None
    return (node, a, b) if a.tensor == total else (node, b, a) if b.tensor == total else None


def start(emit: Emitter, frame: Frame, acc: str, term: Value) -> None:
    """Write the term into every row of an accumulator tile."""
    assert isinstance(term.operand, Access)
    emit.emit("copy_in.copy", frame.axis_dims(frame.axes), [Evaluator.at(acc, frame.axes)], [term.operand])
