"""Rewrites of scalar expressions that give the same bits, for every value the reads can hold."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction

from opc.affine import Affine
from opc.dtypes import DType
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, DimValue, Expr, Read
from passes.tensor._algebra import Tensors, expr_type, inside, outside

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}


def simplify_node(node: Expr, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    """``node`` (its children are simple already) or an expression that always has its value."""
    while True:
        result = _step(node, tensors, extents)
        if result == node:
            return node
        # One rule may make the pattern of the next; each removes a call or a division.
        node = result


def _step(node: Expr, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    if isinstance(node, Read):
        return _read(node, tensors, extents)
    if isinstance(node, DimValue) and node.form.is_const:
        return Const(node.form.const, DType.I32)
    if not isinstance(node, Call):
        return node
    folded = _fold(node)
    if folded is not None:
        return folded
    if FUNCTIONS[node.fn].kind == "cast":
        return _cast(node, tensors)
    rule = _RULES.get(node.fn)
    return node if rule is None else rule(node, tensors, extents)


def _read(node: Read, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    if node.fill is None:
        return node
    tensor = tensors[node.tensor]
    dtype = tensor.dtype
    if inside(node.index, tensor.shape, extents):
        return Read(node.tensor, node.index)
    if outside(node.index, tensor.shape, extents) and _stored(node.fill, dtype):
        return Const(node.fill, dtype.compute)
    return node


def _stored(value: float | int, dtype: DType) -> bool:
    """Whether a tensor of ``dtype`` can hold the value, infinities included."""
    return (math.isinf(value) and dtype.is_float) or exact(value, dtype)


def _fold(node: Call) -> Expr | None:
    """A call on literals only, where the result is exact in every type they may adapt to."""
    if FUNCTIONS[node.fn].kind != "arithmetic" or not all(isinstance(a, Const) for a in node.args):
        return None
    consts = [a for a in node.args if isinstance(a, Const)]
    dtypes = {c.dtype for c in consts}
    if len(dtypes) > 1 or not all(exact(c.value, c.dtype) for c in consts):
        return None
    integers = [isinstance(c.value, int) for c in consts]
    value = _evaluate(node.fn, [Fraction(c.value) for c in consts])
    # -0.0 and integer division depend on the type, and the fraction below has neither.
    if value is None or (value == 0 and not all(integers)) or (node.fn == "div" and any(integers)):
        return None
    result = int(value) if all(integers) else float(value)
    same = Fraction(result) == value and exact(result, consts[0].dtype)
    return Const(result, consts[0].dtype) if same else None


def _evaluate(fn: str, args: list[Fraction]) -> Fraction | None:
    table: dict[str, Callable[..., Fraction]] = {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "neg": operator.neg,
        "abs": abs,
        "max": max,
        "min": min,
    }
    if fn == "div" and args[1]:
        return args[0] / args[1]
    # A literal 0 may become 0.0, whose sign the fraction does not have.
    if fn not in table or (fn == "neg" and not args[0]) or (fn == "mul" and not all(args) and min(args) < 0):
        return None
    return table[fn](*args)


def exact(value: float | int, dtype: DType | None) -> bool:
    """Whether ``dtype`` holds the value, and every compute type too if it is None."""
    if not math.isfinite(value):
        return False
    if dtype is DType.I8:
        return isinstance(value, int) and -128 <= value < 128
    mantissa, exponent = math.frexp(value)
    bits = {DType.F16: 11, DType.BF16: 8}.get(dtype, 24) if dtype is not None else 24
    return (mantissa * 2.0**bits).is_integer() and (value == 0 or -12 < exponent < 16)


def _value(expr: Expr) -> float | int | None:
    return expr.value if isinstance(expr, Const) else None


def _same_type(kept: Expr, node: Call, tensors: Tensors) -> bool:
    """Whether replacing ``node`` by ``kept`` leaves the type of the surrounding expression."""
    have = expr_type(kept, tensors)
    return have is not None and have == expr_type(node, tensors)


def _is_integer(expr: Expr, tensors: Tensors) -> bool:
    return expr_type(expr, tensors) == DType.I32


def _add(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    a, b = node.args
    for kept, other in ((a, b), (b, a)):
        # x + (-0.0) is x for every x; x + 0.0 turns -0.0 into 0.0.
        if _is_zero(other, negative=True) or (_value(other) == 0 and _is_integer(kept, tensors)):
            return kept if _same_type(kept, node, tensors) else node
    if isinstance(b, Call) and b.fn == "neg":
        return Call("sub", (a, b.args[0]))
    if isinstance(a, Call) and a.fn == "neg":
        return Call("sub", (b, a.args[0]))
    return node


def _sub(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    a, b = node.args
    if _value(b) == 0 and not _is_zero(b, negative=True) and _same_type(a, node, tensors):
        return a
    if isinstance(b, Call) and b.fn == "neg":
        return Call("add", (a, b.args[0]))
    return node


def _mul(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    a, b = node.args
    for kept, other in ((a, b), (b, a)):
        if _value(other) == 1 and _same_type(kept, node, tensors):
            return kept
        if _value(other) == -1 and _same_type(kept, node, tensors):
            return Call("neg", (kept,))
    signs = [isinstance(x, Call) and x.fn == "neg" for x in (a, b)]
    if all(signs):
        return Call("mul", tuple(_operand(x) for x in (a, b)))
    for kept, other in ((a, b), (b, a)):
        if isinstance(kept, Call) and kept.fn == "neg" and isinstance(other, Const) and other.value:
            return Call("mul", (kept.args[0], Const(-other.value, other.dtype)))
    return node


def _div(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    a, b = node.args
    if _value(b) == 1 and _same_type(a, node, tensors):
        return a
    kind = expr_type(node, tensors)
    if isinstance(b, Const) and kind is not None and kind.is_float and _power_of_two(b.value):
        # Both round the same real number, and multiplying is many times faster.
        return Call("mul", (a, Const(1 / float(b.value), b.dtype)))
    return node


def _neg(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    (a,) = node.args
    if isinstance(a, Call) and a.fn == "neg":
        return a.args[0]
    if isinstance(a, Const) and a.value:
        return Const(-a.value, a.dtype)
    return node


def _abs(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    (a,) = node.args
    if isinstance(a, Call) and a.fn == "abs":
        return a
    if isinstance(a, Call) and a.fn == "neg":
        return Call("abs", a.args)
    return node


def _extremum(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    """Max and min: both let NaN win, so only the order of the numbers matters."""
    a, b = node.args
    if _identical(a, b):
        return a
    neutral = -math.inf if node.fn == "max" else math.inf
    for kept, other in ((a, b), (b, a)):
        if _value(other) == neutral and _same_type(kept, node, tensors):
            return kept
        nested = _merge_limits(node.fn, kept, other)
        if nested is not None:
            return nested
    return node


def _merge_limits(fn: str, kept: Expr, other: Expr) -> Expr | None:
    """max(max(x, c), d) is max(x, max(c, d)) for literals of one kind."""
    if not (isinstance(other, Const) and isinstance(kept, Call) and kept.fn == fn):
        return None
    x, inner = kept.args if isinstance(kept.args[1], Const) else kept.args[::-1]
    if not isinstance(inner, Const) or (inner.dtype, type(inner.value)) != (other.dtype, type(other.value)):
        return None
    if math.isnan(inner.value) or math.isnan(other.value) or inner.value == other.value == 0:
        return None
    pick = max if fn == "max" else min
    return Call(fn, (x, Const(pick(inner.value, other.value), inner.dtype)))


def _select(node: Call, tensors: Tensors, extents: Mapping[str, int]) -> Expr:
    condition, yes, no = node.args
    if _identical(yes, no):
        return yes
    known = _decide(condition, extents)
    if known is None:
        return node
    chosen = yes if known else no
    kind = expr_type(node, tensors)
    if isinstance(chosen, Const) and chosen.dtype is None and kind is not None and exact(chosen.value, kind):
        return Const(chosen.value, kind) if kind.is_float or isinstance(chosen.value, int) else node
    return chosen if _same_type(chosen, node, tensors) else node


def _decide(condition: Expr, extents: Mapping[str, int]) -> bool | None:
    """Truth of a comparison of literals and dimensions, if it is the same everywhere."""
    if not isinstance(condition, Call) or condition.fn not in _COMPARE:
        return None
    a, b = condition.args
    if isinstance(a, Const) and isinstance(b, Const):
        # Literals that are exact in every type compare the same in every type.
        certain = exact(a.value, a.dtype) and exact(b.value, b.dtype)
        return _COMPARE[condition.fn](a.value, b.value) if certain else None
    left, right = _form(a), _form(b)
    if left is None or right is None:
        return None
    low, high = (left - right).interval(extents)
    if condition.fn in ("eq", "ne"):
        equal = low == high == 0
        return equal == (condition.fn == "eq") if equal or low > 0 or high < 0 else None
    # The order comparisons are monotone: equal at both ends means equal between.
    first, last = _COMPARE[condition.fn](low, 0), _COMPARE[condition.fn](high, 0)
    return first if first == last else None


def _form(expr: Expr) -> Affine | None:
    if isinstance(expr, DimValue):
        return expr.form
    if isinstance(expr, Const) and isinstance(expr.value, int) and expr.dtype in (None, DType.I32):
        return Affine((), expr.value)
    return None


def _cast(node: Call, tensors: Tensors) -> Expr:
    """Conversions of a value that already has the type."""
    (a,) = node.args
    target = DType(node.fn)
    if isinstance(a, Const):
        integer_to_float = target.is_float or isinstance(a.value, int)
        held = exact(a.value, target) and exact(a.value, None) and integer_to_float
        return Const(a.value, target) if held and a.dtype is None else node
    if isinstance(a, Call) and a.fn == node.fn:
        return a
    if target is target.compute:
        return a if expr_type(a, tensors) == target else node
    if not isinstance(a, Read) or tensors[a.tensor].dtype is not target:
        return node
    return a if a.fill is None or _stored(a.fill, target) else node


def _is_zero(expr: Expr, negative: bool) -> bool:
    value = _value(expr)
    if not isinstance(value, float) or value != 0:
        return False
    return (math.copysign(1, value) < 0) == negative


def _power_of_two(value: float | int) -> bool:
    if value == 0 or not math.isfinite(value):
        return False
    mantissa, exponent = math.frexp(abs(value))
    return mantissa == 0.5 and -100 < exponent < 100


def _identical(a: Expr, b: Expr) -> bool:
    """Whether two expressions are one, the signs of their zeros included."""
    return a == b and repr(a) == repr(b)


def _operand(expr: Expr) -> Expr:
    assert isinstance(expr, Call)
    return expr.args[0]


_RULES: dict[str, Callable[[Call, Tensors, Mapping[str, int]], Expr]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "abs": _abs,
    "max": _extremum,
    "min": _extremum,
    "select": _select,
}
