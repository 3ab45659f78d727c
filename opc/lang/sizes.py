"""Arithmetic on sizes: integers with floor division, numbers where a constant is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from opc.errors import LanguageError
from opc.lang import syntax as ast
from opc.lang.messages import error

Size = int | float
# Types of attributes that must be whole numbers.
WHOLE_TYPES = frozenset({"int", "i32", "i8"})
MAX_EXTENT = 2**31 - 1
MAX_ELEMENTS = 2**40
# Intermediate results may exceed an extent, but not grow without end through a chain of `let`s.
_LARGEST = 2**100


def _sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


# Functions of constants, by name and arity checked before.
FUNCTIONS: dict[str, Callable[..., Size]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "tanh": math.tanh,
    "erf": math.erf,
    "sigmoid": _sigmoid,
}
_OPERATORS: dict[str, Callable[[Size, Size], Size]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})


def evaluate(expr: ast.Expr, env: Mapping[str, Size], file: ast.File) -> Size:
    """Value of a checked size expression. Raises E0305 (division by zero) and E0323 (no such number)."""
    if isinstance(expr, ast.Number):
        return expr.value
    if isinstance(expr, ast.Name):
        return math.inf if expr.name == "inf" else env[expr.name]
    if isinstance(expr, ast.Negate):
        return -evaluate(expr.operand, env, file)
    if isinstance(expr, ast.Binary):
        left, right = evaluate(expr.left, env, file), evaluate(expr.right, env, file)
        return operate(expr, left, right, file)
    assert isinstance(expr, ast.Call)
    values = [evaluate(a.value, env, file) for a in expr.args if not isinstance(a.value, ast.NameList)]
    return apply(expr, values, file)


def operate(expr: ast.Binary, left: Size, right: Size, file: ast.File) -> Size:
    """``left op right`` on numbers."""
    try:
        value = _OPERATORS[expr.op](left, right)
    except ZeroDivisionError:
        raise error(
            file,
            "E0305",
            f"division by zero: {left} {expr.op} {right}",
            expr.span,
            help=f"`{brief(expr.right)}` must not be 0; say so with `require`",
        ) from None
    except (OverflowError, ValueError):
        raise _no_number(expr, file) from None
    if not _holds(value, left, right):
        raise _no_number(expr, file)
    return value


def _holds(value: Size, left: Size, right: Size) -> bool:
    """Whether the result is a number: no NaN, no overflow, no integer of unbounded length."""
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    return not math.isnan(value) and (math.isfinite(value) or math.isinf(left) or math.isinf(right))


def apply(expr: ast.Call, values: list[Size], file: ast.File) -> Size:
    """A scalar function of constants."""
    try:
        return FUNCTIONS[expr.function](*values)
    except (OverflowError, ValueError, ZeroDivisionError):
        raise _no_number(expr, file) from None


def _no_number(expr: ast.Binary | ast.Call, file: ast.File) -> LanguageError:
    return error(file, "E0323", f"`{brief(expr)}` has no value that a number can hold", expr.span)


def walk(expr: ast.Expr) -> Iterator[ast.Expr]:
    """Every node of an expression, parents first, left to right; names inside indices included."""
    stack: list[ast.Expr] = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def children(node: ast.Expr) -> list[ast.Expr]:
    """The expressions directly below ``node``, left to right."""
    if isinstance(node, ast.Negate):
        return [node.operand]
    if isinstance(node, ast.Binary):
        return [node.left, node.right]
    if isinstance(node, ast.Read):
        return [*node.indices, *([node.fill] if node.fill is not None else [])]
    if isinstance(node, ast.Reduction):
        return [*(d.extent for d in node.dims if d.extent is not None), node.body]
    if isinstance(node, ast.Call):
        return [a.value for a in node.args if not isinstance(a.value, ast.NameList)]
    return []


def text_of(expr: ast.Expr) -> str:
    """The expression as source text, with the parentheses it needs; iterative, so deep ones are safe."""
    parts: list[str] = []
    stack: list[_Item] = [(expr, 0)]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
        else:
            stack.extend(reversed(_split(*item)))
    return "".join(parts)


def brief(expr: ast.Expr) -> str:
    """The expression for a message: its text, cut to a readable length."""
    text = text_of(expr)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Text, or an expression with the strength of the operator around it.
_Item = str | tuple[ast.Expr, int]
_STRENGTH = {"+": 2, "-": 2, "*": 3, "/": 3, "//": 3, "%": 3}


def _split(expr: ast.Expr, strength: int) -> list[_Item]:
    """Text and subexpressions of one node."""
    if isinstance(expr, ast.Number):
        return [str(expr.value)]
    if isinstance(expr, ast.Name):
        return [expr.name]
    if isinstance(expr, ast.Negate):
        return ["-", (expr.operand, 4)]
    if isinstance(expr, ast.Binary):
        own = _STRENGTH.get(expr.op, 1)
        return _wrapped([(expr.left, own), f" {expr.op} ", (expr.right, own + 1)], own < strength)
    if isinstance(expr, ast.Read):
        fill: list[_Item] = [" else ", (expr.fill, 4)] if expr.fill is not None else []
        return _wrapped([f"{expr.tensor}[", *_commas(expr.indices), "]", *fill], bool(fill) and strength > 0)
    if isinstance(expr, ast.Reduction):
        dims = ", ".join(dim_text(d) for d in expr.dims)
        return [f"{expr.monoid}[{dims}](", (expr.body, 0), ")"]
    if isinstance(expr, ast.UnknownReduction):
        return [f"{expr.name}[...](...)"]
    return [f"{expr.function}(", *_arguments(expr), ")"]


def _wrapped(items: list[_Item], brackets: bool) -> list[_Item]:
    return ["(", *items, ")"] if brackets else items


def _commas(exprs: Sequence[ast.Expr]) -> list[_Item]:
    items: list[_Item] = []
    for expr in exprs:
        items += [", ", (expr, 0)] if items else [(expr, 0)]
    return items


def _arguments(call: ast.Call) -> list[_Item]:
    items: list[_Item] = []
    for argument in call.args:
        items += [", "] if items else []
        items += [f"{argument.keyword}="] if argument.keyword is not None else []
        value = argument.value
        if isinstance(value, ast.NameList):
            items.append(f"[{', '.join(n.name for n in value.names)}]")
        else:
            items.append((value, 0))
    return items


def dim_text(dim: ast.Dim) -> str:
    """``name`` or ``name < extent``."""
    return dim.name if dim.extent is None else f"{dim.name} < {text_of(dim.extent)}"
