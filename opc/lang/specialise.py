"""Kernel to tensor function: sizes fixed, called kernels inlined, clauses lowered in order."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from opc.dtypes import DType
from opc.errors import LanguageError, Span, fail
from opc.lang import calls
from opc.lang import syntax as ast
from opc.lang.checker import check_file
from opc.lang.comprehension import lower_clauses
from opc.lang.loader import Found, Program
from opc.lang.messages import error, noted, shown, suggest
from opc.lang.scope import Builder, Scope
from opc.lang.sizes import WHOLE_TYPES, Size, brief, evaluate
from opc.tensor.ir import Arg, Function, Tensor

MAX_CALLS = 24
# What the letters of a layout stand for, by their number.
_AXES = {3: "ncl", 4: "nchw", 5: "ncdhw"}


def specialise(
    program: Program, found: Found, sizes: Mapping[str, Size], dtype: DType, layout: str | None
) -> Function:
    """The tensor function of a kernel for the given sizes, T and memory order."""
    kernel, file = found
    builder = Builder(program)
    scope = Scope(builder, kernel, file, dtype, root_sizes(file, kernel, sizes))
    order = memory_order(layout)
    settle(scope)
    args = []
    for param in kernel.tensors:
        # Orders are about images; weights keep theirs, for `prepare` packs them anyway.
        tensor = scope.declare(param, param.name)
        tensor = tensor if param.kind == "param" else _ordered(tensor, order)
        args.append(Arg(tensor, param.kind))
        scope.tensors[param.name] = tensor
        builder.names.add(param.name)
    builder.names.update(r.name for r in kernel.results)
    results = {r.name: _ordered(scope.declare(r, r.name), order) for r in kernel.results}
    body(scope, {**results, **{a.tensor.name: a.tensor for a in args if a.kind == "inout"}})
    written = {t.name for op in builder.ops for t in op.outputs}
    changed = tuple(a.tensor.name for a in args if a.kind == "inout" and a.tensor.name in written)
    # What passes between ops lies like what it is made of, so that neither reads across memory.
    ops = tuple(
        replace(op, outputs=tuple(t if t.order else _ordered(t, order) for t in op.outputs))
        for op in builder.ops
    )
    return Function(kernel.name, tuple(args), (*results, *changed), ops, kernel.doc, file.name)


def memory_order(layout: str | None) -> tuple[int, ...] | None:
    """Axes from slowest to fastest for a layout such as "nhwc". Raises E0318."""
    if layout is None:
        return None
    letters = layout.lower()
    axes = _AXES.get(len(letters), "")
    if not axes or sorted(letters) != sorted(axes):
        help = "reorder the letters of nchw (or ncl, ncdhw); the last one is contiguous: nhwc"
        raise fail(LanguageError, "E0318", f"{shown(layout)} is not a layout", help=help)
    return tuple(axes.index(letter) for letter in letters)


def _ordered(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    if order is None or len(order) != len(tensor.shape) or order == tuple(range(len(order))):
        return tensor
    return Tensor(tensor.name, tensor.dtype, tensor.shape, order)


def root_sizes(file: ast.File, kernel: ast.Kernel, given: Mapping[str, Size]) -> dict[str, Size]:
    """Sizes and attributes of a root kernel: given, else its example, else the default."""
    symbols = symbols_of(kernel)
    attributes = {p.name: p for p in kernel.attributes}
    for name in given:
        if name not in symbols and name not in attributes:
            message = f"kernel {kernel.name} has no size or attribute {shown(name)}"
            raise error(file, "E0316", message, kernel.span, suggest(name, [*symbols, *attributes]))
    values: dict[str, Size] = {}
    example = kernel.example
    for name, span in {**{n: p.span for n, p in attributes.items()}, **symbols}.items():
        default = attributes[name].default if name in attributes else None
        if name in given:
            values[name] = given[name]
        elif name in example:
            values[name] = evaluate(example[name].value, values, file)
            span = example[name].span
        elif default is not None:
            values[name] = evaluate(default, values, file)
        else:
            what = "attribute" if name in attributes else "size"
            help = f"give it: `example {name} = ...` in the kernel, or --set {name}=..."
            raise error(file, "E0302", f"{what} {name} has no value", span, help)
        whole = name in symbols or attributes[name].type in WHOLE_TYPES
        values[name] = _checked_value(file, name, values[name], span, whole)
    return values


def _checked_value(file: ast.File, name: str, value: Size, span: Span, whole: bool) -> Size:
    """The value as a plain int or float, whatever number type a caller used. Raises E0317."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number: Size = operator.index(value) if whole else float(value)  # type: ignore[arg-type]
        if number == number:
            return number
    except (TypeError, ValueError):
        pass
    kind = "a whole number" if whole else "a number"
    raise error(file, "E0317", f"{name} is {str(value)[:40]}, but it must be {kind}", span)


def symbols_of(kernel: ast.Kernel) -> dict[str, Span]:
    """The sizes a kernel takes from the shapes of its tensors, in order of appearance."""
    other = {p.name for p in kernel.attributes} | {c.name for c in kernel.lets}
    found: dict[str, Span] = {}
    for param in kernel.tensors:
        for expr in param.shape or ():
            if isinstance(expr, ast.Name) and expr.name not in other:
                found.setdefault(expr.name, expr.span)
    return found


def settle(scope: Scope, caller: Scope | None = None, call: Span | None = None) -> None:
    """Evaluate `let` and `require` in the order of the text.

    Raises E0306 at the requirement, or at the ``call`` whose arguments do not meet it.
    """
    for clause in scope.kernel.clauses:
        if isinstance(clause, ast.Let):
            scope.sizes[clause.name] = scope.evaluate(clause.value)
        elif isinstance(clause, ast.Require) and not scope.evaluate(clause.condition):
            notes = scope.values_note(clause.condition)
            message = f"requirement not met: {clause.text}"
            if caller is None or call is None:
                raise scope.error("E0306", message, clause.condition.span, notes=notes)
            place = f"{clause.span.file}:{clause.span.line}"
            why = f"{scope.kernel.name} requires `{brief(clause.condition)}` ({place})"
            raise caller.error("E0306", message, call, notes=(why, *notes))


def body(scope: Scope, declared: Mapping[str, Tensor]) -> None:
    """Lower the assignments; an operation stands where the last clause of its target stands."""
    assigns = [c for c in scope.kernel.clauses if isinstance(c, ast.Assign)]
    groups: dict[str, list[ast.Assign]] = {}
    for clause in assigns:
        groups.setdefault(clause.targets[0].name, []).append(clause)
    for clause in assigns:
        group = groups[clause.targets[0].name]
        if clause is not group[-1]:
            continue
        targets = [declared.get(t.name) for t in clause.targets]
        if clause.targets[0].indices is None:
            _call(scope, clause, targets)
        else:
            lower_clauses(scope, group, targets)


def _call(scope: Scope, clause: ast.Assign, targets: Sequence[Tensor | None]) -> None:
    call = cast(ast.Call, clause.value)
    names = [t.name for t in clause.targets]
    tensors = _inline(scope, call, f"{scope.prefix}{names[0]}", names, targets)
    scope.tensors.update(zip(names, tensors, strict=True))


def _inline(
    scope: Scope, call: ast.Call, prefix: str, names: Sequence[str], targets: Sequence[Tensor | None]
) -> list[Tensor]:
    """Append the operations of a called kernel; returns its results as tensors of the function.

    ``names`` are the caller's names for the results, ``targets`` the tensors it declared for them;
    the called kernel's own tensors are named after ``prefix``.
    """
    found = scope.builder.program.find(scope.file, call.function)
    assert found is not None, "checked before"
    kernel = found.kernel
    callers = (*scope.callers, scope.kernel)
    if any(kernel is caller for caller in callers):
        way = " calls ".join(k.name for k in (*callers, kernel))
        raise scope.error(
            "E0230", f"kernel {kernel.name} calls itself through others", call.span, notes=(way,)
        )
    if len(callers) > MAX_CALLS:
        raise scope.error("E0246", f"calls nested deeper than {MAX_CALLS}", call.span)
    check_file(scope.builder.program, found.file)
    tensors = _tensor_arguments(scope, kernel, call, prefix)
    inner = Scope(
        scope.builder,
        kernel,
        found.file,
        dtype=calls.element_type(scope, kernel, call, tensors),
        sizes=calls.sizes(scope, found, call, tensors),
        prefix=f"{prefix}_",
        line=scope.line_of(call.span),
        callers=callers,
        tensors=tensors,
    )
    try:
        return _inlined(scope, inner, call, names, targets)
    except LanguageError as problem:
        if problem.span in (call.span, *(a.span for a in call.args)):
            raise  # it is about the call itself
        place = f"{call.span.file}:{call.span.line}:{call.span.column}"
        raise noted(problem, f"in kernel {kernel.name}, called at {place}") from None


def _inlined(
    scope: Scope, inner: Scope, call: ast.Call, names: Sequence[str], targets: Sequence[Tensor | None]
) -> list[Tensor]:
    settle(inner, scope, call.span)
    calls.check_shapes(scope, inner, call)
    results: dict[str, Tensor] = {}
    for result, name, target in zip(inner.kernel.results, names, targets, strict=True):
        tensor = inner.declare(result, name)
        if target is None:
            own = scope.builder.fresh(f"{scope.prefix}{name}")
            results[result.name] = Tensor(own, tensor.dtype, tensor.shape)
            continue
        if (target.dtype, target.shape) != (tensor.dtype, tensor.shape):
            raise _differs(scope, call, name, target, tensor)
        results[result.name] = target
    changed = {p.name: inner.tensors[p.name] for p in inner.kernel.tensors if p.kind == "inout"}
    body(inner, {**results, **changed})
    return list(results.values())


def _differs(scope: Scope, call: ast.Call, name: str, target: Tensor, result: Tensor) -> LanguageError:
    def show(tensor: Tensor) -> str:
        return f"{tensor.dtype}[{','.join(map(str, tensor.shape))}]"

    message = f"{name} is declared {show(target)}, but {call.function} gives {show(result)}"
    return scope.error("E0315", message, call.span)


def _tensor_arguments(scope: Scope, kernel: ast.Kernel, call: ast.Call, prefix: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    given = calls.bound(kernel, call)
    for param in kernel.tensors:
        value = given[param.name].value
        if isinstance(value, ast.Name):
            tensors[param.name] = scope.tensors[value.name]
            continue
        # A call inside a call: its result gets a name made of both.
        inner = cast(ast.Call, value)
        name = f"{prefix}_{param.name}"
        tensors[param.name] = _inline(scope, inner, name, [name.removeprefix(scope.prefix)], [None])[0]
    return tensors
