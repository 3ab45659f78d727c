"""Types of scalar expressions: what every node is computed in, after literals adapted.

f16, bf16 and i8 reads are computed in their wider compute type. A literal without a type of its
own adapts to what it meets: an integer literal to anything, a fractional one to any float (with an
integer it makes f32). Comparisons yield a condition (``None`` here), which only ``select`` takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from opc.dtypes import DType, promote
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, DimValue, Expr, Read, Tensor, walk

# Literals that have not met a type yet, and the type of a comparison.
_WEAK_INT, _WEAK_FLOAT, CONDITION = "integer literal", "literal", "condition"
_Kind = DType | str
LIMITS = {DType.I32: (-(2**31), 2**31 - 1), DType.I8: (-128, 127)}


@dataclass(frozen=True, slots=True)
class Typed:
    """A node of an expression in ``walk`` order: its compute type (None: a condition) and the
    positions of its arguments in the same list.
    """

    node: Expr
    dtype: DType | None
    args: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeProblem:
    """A rule of expression types that a node breaks; ``code`` is a diagnostic code."""

    code: str
    message: str


def literal(value: float | int, dtype: DType) -> float | int:
    """``value`` as an element of ``dtype``; infinities become the limits of an integer type."""
    if dtype.is_float:
        return float(value)
    low, high = LIMITS[dtype]
    if isinstance(value, float) and math.isinf(value):
        return high if value > 0 else low
    return int(value)


def literal_fits(value: float | int, dtype: DType) -> bool:
    """Whether ``literal`` keeps the meaning: integer types take whole numbers in range and ±inf."""
    if dtype.is_float or (isinstance(value, float) and math.isinf(value)):
        return True
    if isinstance(value, float) and not value.is_integer():
        return False
    low, high = LIMITS[dtype]
    return low <= value <= high


def annotate(
    expr: Expr, tensors: Mapping[str, Tensor], default: DType
) -> tuple[list[Typed], list[TypeProblem]]:
    """Every node with its type, children first, and what is wrong. ``default`` is the type that an
    expression of literals alone takes (the stored type). Unknown tensors count as ``default``.
    """
    nodes: list[Expr] = []
    kinds: list[_Kind] = []
    children: list[tuple[int, ...]] = []
    problems: list[TypeProblem] = []
    pending: list[int] = []
    for node in walk(expr):
        args: tuple[int, ...] = ()
        if isinstance(node, Call):
            split = len(pending) - len(node.args)
            args = tuple(pending[split:])
            del pending[split:]
            kind = _call(node, [kinds[i] for i in args], problems)
        else:
            kind = _leaf(node, tensors, default)
        pending.append(len(nodes))
        nodes.append(node)
        kinds.append(kind)
        children.append(args)
    types = _resolve(nodes, kinds, children, default, problems)
    return [Typed(n, t, c) for n, t, c in zip(nodes, types, children, strict=True)], problems


def expression_type(expr: Expr, tensors: Mapping[str, Tensor], default: DType) -> DType | None:
    """The type an expression is computed in; None for a condition."""
    return annotate(expr, tensors, default)[0][-1].dtype


def _leaf(node: Expr, tensors: Mapping[str, Tensor], default: DType) -> _Kind:
    if isinstance(node, Read):
        tensor = tensors.get(node.tensor)
        return (tensor.dtype if tensor is not None else default).compute
    if isinstance(node, DimValue):
        return DType.I32
    assert isinstance(node, Const)
    if node.dtype is not None:
        return node.dtype.compute
    return _WEAK_INT if isinstance(node.value, int) else _WEAK_FLOAT


def _call(node: Call, args: list[_Kind], problems: list[TypeProblem]) -> _Kind:
    function = FUNCTIONS.get(node.fn)
    if function is None:
        problems.append(TypeProblem("E0525", f"unknown function '{node.fn}'"))
        return DType.F32
    if len(args) != function.arity:
        problems.append(
            TypeProblem("E0526", f"'{node.fn}' takes {function.arity} arguments, not {len(args)}")
        )
        return DType.F32 if function.kind != "compare" else CONDITION
    wanted = CONDITION if function.kind == "select" else None
    for i, kind in enumerate(args):
        if (kind == CONDITION) != (wanted == CONDITION and i == 0):
            what = "wants a condition first" if wanted and i == 0 else "cannot take a condition"
            problems.append(TypeProblem("E0527", f"'{node.fn}' {what}"))
            return CONDITION if function.kind == "compare" else DType.F32
    if function.kind == "compare":
        return CONDITION
    if function.kind == "cast":
        return DType(node.fn).compute
    joined = _join(args[1:] if function.kind == "select" else args)
    if function.kind == "float" or node.fn == "div":
        if node.fn == "div" and joined == DType.I32:
            problems.append(TypeProblem("E0528", "'div' of integers; convert one operand to a float first"))
        return {DType.I32: DType.F32, _WEAK_INT: _WEAK_FLOAT}.get(joined, joined)
    return joined


def _join(kinds: list[_Kind]) -> _Kind:
    """The type two operands meet in."""
    joined = kinds[0]
    for kind in kinds[1:]:
        if isinstance(joined, DType) and isinstance(kind, DType):
            joined = promote(joined, kind)
        elif isinstance(joined, DType) or isinstance(kind, DType):
            strong, weak = (joined, kind) if isinstance(joined, DType) else (kind, joined)
            joined = DType.F32 if weak == _WEAK_FLOAT and strong == DType.I32 else strong
        elif kind == _WEAK_FLOAT:
            joined = kind
    return joined


def _resolve(
    nodes: list[Expr],
    kinds: list[_Kind],
    children: list[tuple[int, ...]],
    default: DType,
    problems: list[TypeProblem],
) -> list[DType | None]:
    """Give literals the type of what they met, parents before children."""
    types: list[DType | None] = [k if isinstance(k, DType) else None for k in kinds]
    _settle(kinds, types, len(nodes) - 1, default.compute)
    for i in range(len(nodes) - 1, -1, -1):
        node = nodes[i]
        if not isinstance(node, Call):
            if isinstance(node, Const) and types[i] is not None:
                _check_literal(node, types[i], problems)
            continue
        own, function = types[i], FUNCTIONS.get(node.fn)
        operands = children[i]
        if function is not None and function.kind == "compare":
            joined = _join([kinds[a] for a in operands]) if operands else DType.F32
            own = joined if isinstance(joined, DType) else DType.F32 if joined == _WEAK_FLOAT else DType.I32
        elif function is not None and function.kind == "cast":
            own = DType(node.fn).compute
        for a in operands:
            _settle(kinds, types, a, own or default.compute)
    return types


def _settle(kinds: list[_Kind], types: list[DType | None], i: int, wanted: DType) -> None:
    """Resolve node ``i`` if it is a literal without a type."""
    if kinds[i] == _WEAK_INT:
        types[i] = wanted
    elif kinds[i] == _WEAK_FLOAT:
        types[i] = wanted if wanted.is_float else DType.F32


def _check_literal(node: Const, dtype: DType | None, problems: list[TypeProblem]) -> None:
    own = node.dtype or dtype
    if own is not None and not literal_fits(node.value, own):
        problems.append(TypeProblem("E0529", f"the literal {node.value} is not a value of {own}"))
