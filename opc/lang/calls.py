"""Calls of kernels: match arguments to parameters and find the sizes and T of the instance."""

from __future__ import annotations

from collections.abc import Mapping

from opc.dtypes import DType
from opc.errors import LanguageError, Span
from opc.lang import syntax as ast
from opc.lang.loader import Found
from opc.lang.scope import Scope
from opc.lang.sizes import WHOLE_TYPES, Size, brief, evaluate
from opc.tensor.ir import Tensor


def bound(kernel: ast.Kernel, call: ast.Call) -> dict[str, ast.Argument]:
    """The argument of each parameter that the (checked) call names or passes in order."""
    given: dict[str, ast.Argument] = {}
    for number, argument in enumerate(call.args):
        given[argument.keyword or kernel.params[number].name] = argument
    return given


def element_type(scope: Scope, kernel: ast.Kernel, call: ast.Call, tensors: Mapping[str, Tensor]) -> DType:
    """T of the instance, from its arguments. Raises E0228 where dtypes do not fit."""
    args = bound(kernel, call)
    chosen: DType | None = None
    chosen_by = ""
    for param in kernel.tensors:
        actual, span = tensors[param.name].dtype, args[param.name].span
        if param.type != "T":
            if actual is not DType(param.type):
                message = f"{param.name} of {kernel.name} is {param.type}, but this tensor is {actual}"
                raise scope.error("E0228", message, span, help=_convert(args[param.name], param.type))
        elif chosen is None:
            chosen, chosen_by = actual, param.name
        elif actual is not chosen:
            message = f"{param.name} of {kernel.name} is {actual}, but {chosen_by} made T {chosen}"
            raise scope.error("E0228", message, span, help=_convert(args[param.name], str(chosen)))
    return chosen if chosen is not None else scope.dtype


def _convert(argument: ast.Argument, dtype: str) -> str:
    name = argument.value.name if isinstance(argument.value, ast.Name) else "t"
    return f"convert it first: `{name}2[i, ...] = {dtype}({name}[i, ...])`"


def sizes(scope: Scope, found: Found, call: ast.Call, tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    """Attributes and sizes of the instance, before its `let`s. Raises E0314 where one size is two."""
    args = bound(found.kernel, call)
    values = _attributes(scope, found, args)
    computed = {c.name for c in found.kernel.lets}
    source: dict[str, str] = {}
    for param in found.kernel.tensors:
        for axis, expr in enumerate(param.shape or ()):
            if not isinstance(expr, ast.Name) or expr.name in computed:
                continue
            actual = tensors[param.name].shape[axis]
            if values.setdefault(expr.name, actual) != actual:
                from_where = f" from {source[expr.name]}" if expr.name in source else ""
                note = f"{expr.name} = {values[expr.name]}{from_where}"
                raise _differs(
                    scope, found.kernel, args[param.name], param, axis, actual, values[expr.name], note
                )
            source.setdefault(expr.name, f"axis {axis} of {param.name}")
    return values


def check_shapes(scope: Scope, inner: Scope, call: ast.Call) -> None:
    """Raises E0314 where an argument's shape is not what an expression of the settled instance says."""
    args = bound(inner.kernel, call)
    for param in inner.kernel.tensors:
        for axis, expr in enumerate(param.shape or ()):
            wanted, actual = inner.evaluate(expr), inner.tensors[param.name].shape[axis]
            if wanted != actual:
                note = f"{brief(expr)} = {wanted}"
                raise _differs(scope, inner.kernel, args[param.name], param, axis, actual, wanted, note)


def _differs(
    scope: Scope,
    kernel: ast.Kernel,
    argument: ast.Argument,
    param: ast.Param,
    axis: int,
    actual: Size,
    wanted: Size,
    note: str,
) -> LanguageError:
    message = f"axis {axis} of {param.name} has extent {actual}, but {kernel.name} wants {wanted}"
    return scope.error("E0314", message, argument.span, notes=(note,))


def _attributes(scope: Scope, found: Found, args: Mapping[str, ast.Argument]) -> dict[str, Size]:
    values: dict[str, Size] = {}
    for param in found.kernel.attributes:
        argument = args.get(param.name)
        if argument is None:
            assert param.default is not None, "checked before"
            values[param.name] = evaluate(param.default, values, found.file)
            continue
        assert not isinstance(argument.value, ast.NameList)
        value = scope.evaluate(argument.value)
        values[param.name] = (
            _whole(scope, param, value, argument.span) if param.type in WHOLE_TYPES else float(value)
        )
    return values


def _whole(scope: Scope, param: ast.Param, value: Size, span: Span) -> int:
    if not isinstance(value, int):
        message = f"{param.name} is {value}, but it must be a whole number"
        raise scope.error("E0317", message, span)
    return int(value)
