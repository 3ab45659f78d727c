"""Clauses of one output to one tensor operation: extents, indices, pieces, coverage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import Span
from opc.lang import syntax as ast
from opc.lang.expressions import Lowering, Typed, combine
from opc.lang.pieces import Part, check_pieces
from opc.lang.scope import Scope
from opc.lang.sizes import walk
from opc.tensor import ir
from opc.tensor.ir import Const, Dim, Op, Piece, Read, Tensor

_INDEX_MONOIDS = ("argmax", "argmin")
_ACCUMULATING = ("sum", "moments")
# An extent, the bare index that tells it, and the tensor's name.
_Extent = tuple[int, Span, str]


def lower_clauses(scope: Scope, clauses: Sequence[ast.Assign], declared: Sequence[Tensor | None]) -> None:
    """Append the operation that the clauses of one target (or tuple of targets) describe.

    ``declared`` has the tensor of each target that is a result or ``inout``.
    """
    Clauses(scope, clauses, declared).run()


class Clauses:
    """All pieces of one output on their way to one operation."""

    def __init__(
        self, scope: Scope, clauses: Sequence[ast.Assign], declared: Sequence[Tensor | None]
    ) -> None:
        self.scope, self.declared = scope, declared
        self.targets = clauses[0].targets
        self.lowering = Lowering(scope, self.hoist)
        self.line = scope.line_of(clauses[0].span)
        self.parts = [self._part(clause) for clause in clauses]
        kinds = {p.reduction.monoid if p.reduction else None for p in self.parts}
        same = kinds.pop() if len(kinds) == 1 else None
        # An operation has one monoid; pieces that reduce otherwise get operations of their own.
        if same in _INDEX_MONOIDS and any(t is not None and t.dtype is not DType.I32 for t in declared):
            same = None
        self.monoid = same

    def run(self) -> None:
        lowered = [self._piece(part) for part in self.parts]
        dtype = None
        for _, value in lowered:
            dtype = combine(dtype, value.dtype, "max")
        element = dtype or self._settled(*(value for _, value in lowered))
        outputs = self._outputs(reduced_type(self.monoid, element) if self.monoid else element)
        self._check_shapes(outputs)
        check_pieces(self.scope, self.parts, outputs[0])
        accumulate = element.compute if self.monoid else None
        pieces = tuple(piece for piece, _ in lowered)
        self.scope.builder.add(Op(outputs, pieces, self.monoid, accumulate=accumulate, line=self.line))
        for target, output in zip(self.targets, outputs, strict=True):
            self.scope.tensors[target.name] = output

    # Dimensions and their extents.

    def _part(self, clause: ast.Assign) -> Part:
        target = clause.targets[0]
        assert target.indices is not None
        explicit = {d.name: d for d in clause.domain}
        extents: dict[str, int] = {}
        for name, span in index_dims(target.indices, self.scope.sizes):
            if name in extents:
                continue
            dim = explicit.get(name)
            if dim is not None and dim.extent is not None:
                extents[name] = self.scope.extent(dim.extent, f"dimension {name}")
            else:
                extents[name] = self._infer(name, span, clause.value, self._from_output(target, name))
        index = tuple(self.scope.affine(e, extents) for e in target.indices)
        reduction = clause.value if isinstance(clause.value, ast.Reduction) else None
        return Part(clause, extents, index, clause.value, reduction)

    def _from_output(self, target: ast.Target, name: str) -> list[_Extent]:
        tensor = next((t for t in self.declared if t is not None), None)
        assert target.indices is not None
        if tensor is None:
            return []
        return [
            (extent, e.span, target.name)
            for e, extent in zip(target.indices, tensor.shape, strict=True)
            if isinstance(e, ast.Name) and e.name == name
        ]

    def _infer(self, name: str, span: Span, value: ast.Expr, written: list[_Extent]) -> int:
        """Extent of a dimension from bare indices. Raises E0307 (they differ) and E0308 (there are none).

        Reads come first: one of several clauses may write a part of its output. A padded read
        may run past its tensor, so it only speaks where nothing else does.
        """
        known: list[_Extent] = []
        padded: list[_Extent] = []
        for node in walk(value):
            if not isinstance(node, ast.Read):
                continue
            shape = self.scope.tensors[node.tensor].shape
            for e, extent in zip(node.indices, shape, strict=True):
                if isinstance(e, ast.Name) and e.name == name:
                    (known if node.fill is None else padded).append((extent, e.span, node.tensor))
        sources = known or written or padded
        if not sources:
            message = f"the extent of dimension {name} is not known"
            help = f"only a bare index tells an extent; give it: `for {name} < ...` or `[{name} < ...]`"
            raise self.scope.error("E0308", message, span, help=help)
        first = sources[0]
        for other in sources[1:]:
            if other[0] != first[0]:
                message = f"dimension {name} has extent {first[0]} in {first[2]} but {other[0]} in {other[2]}"
                label = f"extent {first[0]} here"
                help = f"if {name} is meant to run over a part only, say `for {name} < ...`"
                raise self.scope.error("E0307", message, other[1], help=help, secondary=((first[1], label),))
        return first[0]

    def _reduced(self, reduction: ast.Reduction) -> dict[str, int]:
        extents: dict[str, int] = {}
        for dim in reduction.dims:
            if dim.extent is not None:
                extents[dim.name] = self.scope.extent(dim.extent, f"dimension {dim.name}")
            else:
                extents[dim.name] = self._infer(dim.name, dim.span, reduction.body, [])
        return extents

    # Pieces.

    def _piece(self, part: Part) -> tuple[Piece, Typed]:
        dims = _dims(part.extents)
        if self.monoid is None or part.reduction is None:
            value = self.lowering.value(part.value, part.extents)
            return Piece(dims, part.forms, value.expr), self._checked(part, value)
        reduced = self._reduced(part.reduction)
        body = self.lowering.value(part.reduction.body, {**part.extents, **reduced})
        if self.monoid == "moments":
            self.lowering.require_float("moments", self._settled(body), part.reduction.body.span)
        piece = Piece(dims, part.forms, body.expr, _dims(reduced))
        self._checked(part, Typed(body.expr, reduced_type(self.monoid, self._settled(body))))
        return piece, body

    def _checked(self, part: Part, value: Typed) -> Typed:
        """Raises E0227 where a floating-point value would be stored as an integer."""
        for target, tensor in zip(part.clause.targets, self.declared, strict=True):
            if tensor is None or tensor.dtype.is_float:
                continue
            literal = isinstance(value.expr, Const) and isinstance(value.expr.value, float)
            if literal or (value.dtype is not None and value.dtype.is_float):
                kind = value.dtype or "floating-point"
                message = f"{target.name} is {tensor.dtype}, but this value is {kind}"
                help = f"convert it: `{tensor.dtype}(...)`"
                raise self.scope.error("E0227", message, part.value.span, help=help)
        return value

    def hoist(self, node: ast.Reduction, dims: dict[str, int]) -> Typed:
        """An operation of its own for a reduction inside an expression; returns a read of it."""
        reduced = self._reduced(node)
        body = self.lowering.value(node.body, {**dims, **reduced})
        used = {n.name for n in walk(node.body) if isinstance(n, ast.Name)}
        kept = {name: extent for name, extent in dims.items() if name in used}
        element = self._settled(body)
        dtype = reduced_type(node.monoid, element)
        name = self.scope.builder.fresh(f"{self.scope.prefix}{self.targets[0].name}_{node.monoid}")
        # A total is a tensor of one element: there are no tensors of rank 0.
        output = Tensor(name, dtype, tuple(kept.values()) or (1,))
        self.scope.check_size(output, node.span, f"the result of {node.monoid}")
        index = tuple(Affine.var(n) for n in kept) or (Affine(),)
        piece = Piece(_dims(kept), index, body.expr, _dims(reduced))
        self.scope.builder.add(
            Op((output,), (piece,), node.monoid, accumulate=element.compute, line=self.line)
        )
        return Typed(Read(name, index), dtype)

    # The output as a whole.

    def _outputs(self, dtype: DType) -> tuple[Tensor, ...]:
        """The declared tensors, or fresh ones of ``dtype`` that just hold all pieces."""
        outputs = []
        for target, declared in zip(self.targets, self.declared, strict=True):
            if declared is None:
                name = self.scope.builder.fresh(f"{self.scope.prefix}{target.name}")
                declared = Tensor(name, dtype, self._hull())
                self.scope.check_size(declared, target.span, target.name)
            outputs.append(declared)
        return tuple(outputs)

    def _check_shapes(self, outputs: tuple[Tensor, ...]) -> None:
        first = outputs[0]
        for target, output in zip(self.targets, outputs, strict=True):
            if output.shape != first.shape:
                other = f"{self.targets[0].name} {list(first.shape)}"
                message = f"{target.name} has shape {list(output.shape)}, but {other}"
                raise self.scope.error("E0250", message, target.span)

    def _settled(self, *values: Typed) -> DType:
        """The type of a value; literals alone are a float (T, if T is one) if one has a point, else i32."""
        for value in values:
            if value.dtype is not None:
                return value.dtype
        real = any(
            isinstance(node, Const) and isinstance(node.value, float)
            for v in values
            for node in ir.walk(v.expr)
        )
        if not real:
            return DType.I32
        return self.scope.dtype if self.scope.dtype.is_float else DType.F32

    def _hull(self) -> tuple[int, ...]:
        highest = [[form.interval(p.extents)[1] for form in p.forms] for p in self.parts]
        return tuple(max(1, max(axis) + 1) for axis in zip(*highest, strict=True))


def index_dims(index: Sequence[ast.Expr], sizes: dict[str, int | float]) -> Iterator[tuple[str, Span]]:
    """The dimensions that an output index names, in order; every other name is a size."""
    for expr in index:
        for node in walk(expr):
            if isinstance(node, ast.Name) and node.name not in sizes and node.name != "inf":
                yield node.name, node.span


def reduced_type(monoid: str, dtype: DType) -> DType:
    """Type of a reduction over values of ``dtype``: sums have the type that they are accumulated in."""
    if monoid in _INDEX_MONOIDS:
        return DType.I32
    return dtype.compute if monoid in _ACCUMULATING else dtype


def _dims(extents: dict[str, int]) -> tuple[Dim, ...]:
    return tuple(Dim(name, extent) for name, extent in extents.items())
