"""Scalar expressions of a comprehension to tensor IR, with their types.

A value's dtype is the type it would be stored in: reads have their tensor's, and what only picks
or flips a value (max, min, select, -, abs) keeps it; what computes gives the type it is computed in
(f16 and bf16 give f32, integers i32); literals adapt (None).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from opc import scalar
from opc.affine import Affine
from opc.dtypes import DType, promote
from opc.errors import LanguageError, Span
from opc.lang import sizes
from opc.lang import syntax as ast
from opc.lang.scope import Scope
from opc.lang.sizes import brief
from opc.tensor.ir import Call, Const, DimValue, Expr, Read

_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
_COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
_PICKS = frozenset({"max", "min", "select"})
_INTEGER_RANGE = {DType.I8: (-128, 127), DType.I32: (-(2**31), 2**31 - 1)}


class Typed(NamedTuple):
    """An expression and the type it would be stored in; None for a literal."""

    expr: Expr
    dtype: DType | None


# Turns a reduction inside an expression into a read of a tensor of its own.
Hoist = Callable[[ast.Reduction, dict[str, int]], Typed]


@dataclass(eq=False, repr=False)
class Lowering:
    """Lowers the expressions of one clause."""

    scope: Scope
    hoist: Hoist

    def value(self, node: ast.Expr, dims: dict[str, int]) -> Typed:
        """``node`` over ``dims`` (extents by name)."""
        if isinstance(node, ast.Number):
            return self._literal(node.value, node.span)
        if isinstance(node, ast.Name):
            return self._name(node, dims)
        if isinstance(node, ast.Negate):
            return self._negate(self.value(node.operand, dims), node.span)
        if isinstance(node, ast.Binary):
            return self._binary(node, self.value(node.left, dims), self.value(node.right, dims))
        if isinstance(node, ast.Read):
            return self._read(node, dims)
        if isinstance(node, ast.Reduction):
            return self.hoist(node, dims)
        assert isinstance(node, ast.Call)
        args = [self.value(a.value, dims) for a in node.args if not isinstance(a.value, ast.NameList)]
        return self._call(node, args)

    def _literal(self, value: int | float, span: Span) -> Typed:
        low, high = _INTEGER_RANGE[DType.I32]
        if isinstance(value, int) and not low <= value <= high:
            message = f"{value} does not fit 32 bits"
            raise self.scope.error("E0324", message, span, help=f"write {value}.0 for a floating-point value")
        return Typed(Const(value), None)

    def _name(self, node: ast.Name, dims: dict[str, int]) -> Typed:
        if node.name in dims:
            return Typed(DimValue(Affine.var(node.name)), DType.I32)
        return self._literal(self.scope.evaluate(node), node.span)

    def _negate(self, value: Typed, span: Span) -> Typed:
        if isinstance(value.expr, Const) and value.dtype is None:
            return self._literal(-value.expr.value, span)
        if isinstance(value.expr, DimValue):
            return Typed(DimValue(value.expr.form * -1), DType.I32)
        return Typed(Call("neg", (value.expr,)), _flipped(value.dtype))

    def _binary(self, node: ast.Binary, left: Typed, right: Typed) -> Typed:
        if (
            isinstance(left.expr, Const)
            and isinstance(right.expr, Const)
            and left.dtype is right.dtype is None
        ):
            number = sizes.operate(node, left.expr.value, right.expr.value, self.scope.file)
            if node.op not in _COMPARISONS:
                return self._literal(number, node.span)
        if node.op in ("//", "%"):
            message = f"`{node.op}` works on sizes only; `{brief(node)}` depends on a dimension or tensor"
            raise self.scope.error(
                "E0226", message, node.span, help="split the dimension instead: `i1*4 + i0`"
            )
        form = _affine(node.op, left, right)
        if form is not None:
            return Typed(DimValue(form), DType.I32)
        left, right = self._adapt(left, right, node)
        if node.op in _COMPARISONS:
            return Typed(Call(_COMPARISONS[node.op], (left.expr, right.expr)), None)
        dtype = combine(left.dtype, right.dtype, node.op)
        if node.op == "/" and dtype is not None and not dtype.is_float:
            message = f"`/` of integers: `{brief(node.left)}` and `{brief(node.right)}`"
            raise self.scope.error("E0225", message, node.span, help="convert one side first: `f32(...)`")
        return Typed(Call(_OPERATORS[node.op], (left.expr, right.expr)), dtype)

    def _adapt(self, left: Typed, right: Typed, node: ast.Binary) -> tuple[Typed, Typed]:
        """Both sides, with literals in the type of the other side."""
        return self.adapt(left, right.dtype, node.left.span), self.adapt(right, left.dtype, node.right.span)

    def adapt(self, value: Typed, dtype: DType | None, span: Span) -> Typed:
        """A literal beside a value of ``dtype``: infinities become integer limits. Raises E0248."""
        literal = value.expr
        if not isinstance(literal, Const) or value.dtype is not None or dtype is None or dtype.is_float:
            return value
        if isinstance(literal.value, int):
            return value
        return Typed(Const(self.integer(literal.value, dtype, span)), None)

    def integer(self, value: float, dtype: DType, span: Span) -> int:
        """``value`` where an integer of ``dtype`` stands. Raises E0248 if it has a fraction."""
        low, high = _INTEGER_RANGE[dtype]
        if value in (float("inf"), float("-inf")):
            return high if value > 0 else low
        if value != int(value):
            message = f"{value} stands beside a value of type {dtype}"
            raise self.scope.error("E0248", message, span, help="convert the other side first: `f32(...)`")
        return int(value)

    def _read(self, node: ast.Read, dims: dict[str, int]) -> Typed:
        tensor = self.scope.tensors[node.tensor]
        index = tuple(self.scope.affine(e, dims) for e in node.indices)
        outside = False
        for axis, (form, extent) in enumerate(zip(index, tensor.shape, strict=True)):
            low, high = form.interval(dims)
            if low < 0 or high >= extent:
                outside = True
                if node.fill is None:
                    raise self._leaves(node, axis, (low, high), extent, dims)
        fill = self._fill(node, tensor.dtype) if outside else None
        return Typed(Read(tensor.name, index, fill), tensor.dtype)

    def _leaves(
        self, node: ast.Read, axis: int, bounds: tuple[int, int], extent: int, dims: dict[str, int]
    ) -> LanguageError:
        span = node.indices[axis].span
        runs = f"this index runs from {bounds[0]} to {bounds[1]}"
        message = f"axis {axis} of {node.tensor} has extent {extent}, but {runs}"
        help = f"say what lies outside: `{node.tensor}[...] else 0`, or bound the dimension with `for`"
        notes = (
            *self.scope.values_note(node.indices[axis]),
            *self.scope.ranges_note(node.indices[axis], dims),
        )
        return self.scope.error("E0301", message, span, help=help, notes=notes)

    def _fill(self, node: ast.Read, dtype: DType) -> int | float:
        assert node.fill is not None
        value = self.scope.evaluate(node.fill)
        if dtype.is_float:
            return float(value)
        return self._in_range(self.integer(value, dtype, node.fill.span), dtype, node.fill.span)

    def _in_range(self, value: int, dtype: DType, span: Span) -> int:
        low, high = _INTEGER_RANGE[dtype]
        if not low <= value <= high:
            message = f"{value} is no value of type {dtype}, which runs from {low} to {high}"
            raise self.scope.error("E0324", message, span)
        return value

    def _call(self, node: ast.Call, args: list[Typed]) -> Typed:
        name = str(self.scope.dtype) if node.function == "T" else node.function
        function = scalar.FUNCTIONS[name]
        if function.kind == "cast":
            return self._cast(DType(name), args[0])
        if function.kind == "select":
            return self._select(node, args)
        if all(isinstance(a.expr, Const) and a.dtype is None for a in args):
            values = [a.expr.value for a in args if isinstance(a.expr, Const)]
            return self._literal(sizes.apply(node, values, self.scope.file), node.span)
        if function.kind == "float":
            self.require_float(node.function, args[0].dtype, node.args[0].span)
        if len(args) == 2:
            left, right = node.args[0].span, node.args[1].span
            args = [self.adapt(args[0], args[1].dtype, left), self.adapt(args[1], args[0].dtype, right)]
        dtype = args[0].dtype
        for other in args[1:]:
            dtype = combine(dtype, other.dtype, name)
        if name == "abs":
            dtype = _flipped(dtype)
        elif function.kind == "float" and dtype is not None:
            dtype = dtype.compute
        return Typed(Call(name, tuple(a.expr for a in args)), dtype)

    def require_float(self, what: str, dtype: DType | None, span: Span) -> None:
        """Raises E0224 if a value of ``dtype`` is an integer."""
        if dtype is None or dtype.is_float:
            return
        where = f" (T is {self.scope.dtype})" if dtype is self.scope.dtype else ""
        message = f"{what} needs a floating-point value; this is {dtype}{where}"
        raise self.scope.error("E0224", message, span, help="convert it first: `f32(...)`")

    def _select(self, node: ast.Call, args: list[Typed]) -> Typed:
        condition, yes, no = args
        yes = self.adapt(yes, no.dtype, node.args[1].span)
        no = self.adapt(no, yes.dtype, node.args[2].span)
        dtype = combine(yes.dtype, no.dtype, "select")
        return Typed(Call("select", (condition.expr, yes.expr, no.expr)), dtype)

    def _cast(self, dtype: DType, value: Typed) -> Typed:
        if isinstance(value.expr, Const) and value.dtype is None:
            number = value.expr.value
            return Typed(Const(float(number) if dtype.is_float else saturated(number, dtype), dtype), dtype)
        return Typed(Call(str(dtype), (value.expr,)), dtype)


def saturated(value: float, dtype: DType) -> int:
    """A literal converted to an integer type: i32 cuts, i8 rounds to nearest even, both saturate."""
    low, high = _INTEGER_RANGE[dtype]
    if not low < value < high:
        return high if value > 0 else low
    return round(value) if dtype is DType.I8 else int(value)


def _flipped(dtype: DType | None) -> DType | None:
    """Type of -a and abs(a): exact for floats, but -(-128) is no i8."""
    return dtype if dtype is None or dtype.is_float else DType.I32


def combine(a: DType | None, b: DType | None, fn: str) -> DType | None:
    """Storage type of a result over operands of types ``a`` and ``b``."""
    if a is None or b is None or a is b:
        both = a if a is not None else b
        return both if both is None or fn in _PICKS else both.compute
    return promote(a, b)


def _affine(op: str, left: Typed, right: Typed) -> Affine | None:
    """The affine form of ``left op right`` where both are affine in the dimensions."""
    forms = [_form(left), _form(right)]
    if forms[0] is None or forms[1] is None or op not in ("+", "-", "*"):
        return None
    if op == "+":
        return forms[0] + forms[1]
    if op == "-":
        return forms[0] - forms[1]
    if forms[1].is_const:
        return forms[0] * forms[1].const
    return forms[1] * forms[0].const if forms[0].is_const else None


def _form(value: Typed) -> Affine | None:
    if isinstance(value.expr, DimValue):
        return value.expr.form
    if isinstance(value.expr, Const) and value.dtype is None and isinstance(value.expr.value, int):
        return Affine((), value.expr.value)
    return None
