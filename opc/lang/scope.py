"""One instance of a kernel being lowered: its sizes, its dtype, its tensors, its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import LanguageError, Span, fail
from opc.lang import syntax as ast
from opc.lang.loader import Program
from opc.lang.messages import error
from opc.lang.sizes import MAX_ELEMENTS, MAX_EXTENT, Size, brief, evaluate
from opc.tensor.ir import Op, Tensor

MAX_OPS = 4_000


@dataclass(eq=False, repr=False)
class Builder:
    """What grows while a root kernel and the kernels it calls are lowered."""

    program: Program
    ops: list[Op] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def fresh(self, wanted: str) -> str:
        """A tensor name nobody has: ``wanted``, else ``wanted_2`` and so on."""
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name

    def add(self, op: Op) -> None:
        """Append an operation. Raises E0246 when the function becomes absurdly large."""
        if len(self.ops) >= MAX_OPS:
            raise fail(LanguageError, "E0246", f"the kernel expands to more than {MAX_OPS:,} operations")
        self.ops.append(op)


@dataclass(eq=False, repr=False)
class Scope:
    """A kernel with its sizes fixed. ``tensors`` maps its own names to tensors of the function.

    ``line`` is the root file's line for operations, fixed while a called kernel is inlined.
    """

    builder: Builder
    kernel: ast.Kernel
    file: ast.File
    dtype: DType
    sizes: dict[str, Size]
    prefix: str = ""
    line: int | None = None
    callers: tuple[ast.Kernel, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        help: str = "",
        notes: tuple[str, ...] = (),
        secondary: tuple[tuple[Span, str], ...] = (),
    ) -> LanguageError:
        """An error at a place of this kernel's file."""
        return error(self.file, code, message, span, help, notes, secondary)

    def line_of(self, span: Span) -> int:
        """The root file's line that stands for ``span``."""
        return span.line if self.line is None else self.line

    def element_type(self, name: str) -> DType:
        """The dtype a declaration names; ``T`` is the instance's own."""
        return self.dtype if name == "T" else DType(name)

    def evaluate(self, expr: ast.Expr) -> Size:
        """Value of a size expression."""
        return evaluate(expr, self.sizes, self.file)

    def whole(self, expr: ast.Expr) -> int:
        """Value of a size expression that must be an integer. Raises E0319."""
        value = self.evaluate(expr)
        if not isinstance(value, int):
            message = f"`{brief(expr)}` is {value}, not a whole number"
            raise self.error("E0319", message, expr.span, help="divide sizes with `//`")
        return int(value)

    def extent(self, expr: ast.Expr, what: str) -> int:
        """Value of an extent. Raises E0303 below 1 and E0304 above the largest extent."""
        value = self.whole(expr)
        notes = self.values_note(expr)
        if value < 1:
            message = f"{what} has extent {value}; an extent is at least 1"
            raise self.error("E0303", message, expr.span, notes=notes)
        if value > MAX_EXTENT:
            message = f"{what} has extent {value:,}; the largest is {MAX_EXTENT:,}"
            raise self.error("E0304", message, expr.span, notes=notes)
        return value

    def values_note(self, expr: ast.Expr) -> tuple[str, ...]:
        """A note that shows how a size came about: definitions of its names, then their values."""
        definitions = {c.name: c.value for c in self.kernel.clauses if isinstance(c, ast.Let)}
        names = sorted(_names(expr))
        lines = [f"{n} = {brief(definitions[n])} = {self.sizes[n]}" for n in names if n in definitions]
        inner: set[str] = {n for n in names if n not in definitions}
        for name in names:
            if name in definitions:
                inner |= _names(definitions[name])
        values = [f"{n} = {self.sizes[n]}" for n in sorted(inner) if n in self.sizes]
        return (*lines, *((f"with {', '.join(values)}",) if values else ()))

    def ranges_note(self, expr: ast.Expr, dims: Mapping[str, int]) -> tuple[str, ...]:
        """A note with the range of every dimension in an index."""
        ranges = [f"{n} runs from 0 to {dims[n] - 1}" for n in sorted(_names(expr)) if n in dims]
        return (", ".join(ranges),) if ranges else ()

    def declare(self, param: ast.Param, name: str, order: tuple[int, ...] | None = None) -> Tensor:
        """The tensor of a declaration, its shape evaluated. Raises E0303 and E0304."""
        assert param.shape is not None
        shape = tuple(self.extent(e, f"axis {i} of {param.name}") for i, e in enumerate(param.shape))
        tensor = Tensor(name, self.element_type(param.type), shape, order)
        self.check_size(tensor, param.span, param.name)
        return tensor

    def check_size(self, tensor: Tensor, span: Span, name: str) -> None:
        """Raises E0304 for a tensor that no memory holds."""
        if tensor.size > MAX_ELEMENTS:
            message = f"{name} has {tensor.size:,} elements; the most is {MAX_ELEMENTS:,}"
            raise self.error("E0304", message, span)

    def affine(self, expr: ast.Expr, dims: Mapping[str, int]) -> Affine:
        """An index as an affine form of ``dims``. Raises E0309 where it is none."""
        if isinstance(expr, ast.Name) and expr.name in dims:
            return Affine.var(expr.name)
        if isinstance(expr, ast.Negate):
            return self.affine(expr.operand, dims) * -1
        if isinstance(expr, ast.Binary) and any(name in dims for name in _names(expr)):
            return self._affine_binary(expr, dims)
        return Affine((), self.whole(expr))

    def _affine_binary(self, expr: ast.Binary, dims: Mapping[str, int]) -> Affine:
        if expr.op not in ("+", "-", "*"):
            message = f"`{brief(expr)}` is not affine: `{expr.op}` of a dimension"
            help = (
                "an index is a sum of dimensions times sizes; split the dimension: `for i1 < N // 4, i0 < 4`"
            )
            raise self.error("E0309", message, expr.span, help=help)
        left, right = self.affine(expr.left, dims), self.affine(expr.right, dims)
        if expr.op == "+":
            return left + right
        if expr.op == "-":
            return left - right
        if not left.is_const and not right.is_const:
            message = f"`{brief(expr)}` is not affine: it multiplies two dimensions"
            raise self.error("E0309", message, expr.span, help="an index is a sum of dimensions times sizes")
        return left * right.const if right.is_const else right * left.const


def _names(expr: ast.Expr) -> set[str]:
    from opc.lang.sizes import walk

    return {node.name for node in walk(expr) if isinstance(node, ast.Name)}
