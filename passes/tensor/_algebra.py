"""Questions and substitutions on comprehensions that several tensor passes share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from opc.affine import Affine
from opc.dtypes import DType
from opc.tensor.ir import Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor, rewrite, walk
from opc.tensor.types import expression_type

Tensors = Mapping[str, Tensor]


def substitute(expr: Expr, values: Mapping[str, Affine | int]) -> Expr:
    """``expr`` with dimensions replaced by forms or numbers."""

    def leaf(node: Expr) -> Expr:
        if isinstance(node, Read):
            return replace(node, index=tuple(f.substitute(values) for f in node.index))
        if isinstance(node, DimValue):
            return DimValue(node.form.substitute(values))
        return node

    return rewrite(expr, leaf) if values else expr


def rename_tensors(op: Op, names: Mapping[str, str]) -> Op:
    """``op`` reading other tensors: every read of a key becomes a read of its value."""

    def leaf(node: Expr) -> Expr:
        if isinstance(node, Read) and node.tensor in names:
            return replace(node, tensor=names[node.tensor])
        return node

    pieces = tuple(replace(p, body=rewrite(p.body, leaf)) for p in op.pieces)
    return op if pieces == op.pieces else replace(op, pieces=pieces)


def expr_dims(expr: Expr) -> frozenset[str]:
    """Names of the dimensions that occur in ``expr``."""
    found: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Read):
            for form in node.index:
                found |= form.names
        elif isinstance(node, DimValue):
            found |= node.form.names
    return frozenset(found)


def expr_reads(expr: Expr) -> list[Read]:
    """The reads of ``expr``, in order."""
    return [node for node in walk(expr) if isinstance(node, Read)]


def inside(index: Iterable[Affine], shape: Iterable[int], extents: Mapping[str, int]) -> bool:
    """Whether the index stays in the tensor for every value of the dimensions."""
    for form, extent in zip(index, shape, strict=True):
        low, high = form.interval(extents)
        if low < 0 or high >= extent:
            return False
    return True


def outside(index: Iterable[Affine], shape: Iterable[int], extents: Mapping[str, int]) -> bool:
    """Whether the index leaves the tensor for every value of the dimensions."""
    for form, extent in zip(index, shape, strict=True):
        low, high = form.interval(extents)
        if high < 0 or low >= extent:
            return True
    return False


def expr_type(expr: Expr, tensors: Tensors) -> DType | None:
    """Type in which ``expr`` is evaluated; None for a literal that adapts and for a condition."""
    # A literal takes the default, so it is one if two defaults give two types.
    first = expression_type(expr, tensors, DType.I32)
    return first if first == expression_type(expr, tensors, DType.F64) else None


def is_pointwise(op: Op) -> bool:
    """Whether every output element is one evaluation of one expression."""
    return op.monoid is None and not any(p.reduce for p in op.pieces)


def is_total(op: Op) -> bool:
    """Whether one piece writes the whole output (the verifier proves it when there is no fill)."""
    return len(op.pieces) == 1 and op.fill is None


def skips_terms(op: Op) -> bool:
    """Whether guards leave out some terms of its reduction."""
    return any(g.names & {d.name for d in p.reduce} for p in op.pieces for g in p.guards)


def parameters(function: Function) -> frozenset[str]:
    """Tensors that depend on parameters only: ``param`` arguments and outputs of prepare ops."""
    names = {a.tensor.name for a in function.args if a.kind == "param"}
    names.update(t.name for op in function.ops if op.prepare for t in op.outputs)
    return frozenset(names)


def fresh(name: str, taken: Collection[str]) -> str:
    """``name``, or ``name_2``, ``name_3`` … if it is taken."""
    result, n = name, 1
    while result in taken:
        n += 1
        result = f"{name}_{n}"
    return result


def apply_to_piece(piece: Piece, values: Mapping[str, Affine | int], dims: tuple[Dim, ...]) -> Piece:
    """``piece`` over the parallel dimensions ``dims``, its own replaced as ``values`` says."""
    return replace(
        piece,
        dims=dims,
        index=tuple(f.substitute(values) for f in piece.index),
        body=substitute(piece.body, values),
        guards=tuple(g.substitute(values) for g in piece.guards),
    )


def canonical(op: Op) -> Op:
    """``op`` without what does not change its values: names of dimensions and outputs, its line."""
    outputs = tuple(replace(t, name=f"out{i}") for i, t in enumerate(op.outputs))
    pieces = tuple(_canonical_piece(p) for p in op.pieces)
    return replace(op, outputs=outputs, pieces=pieces, line=0)


def _canonical_piece(piece: Piece) -> Piece:
    dims = tuple(Dim(f"p{i}", d.extent) for i, d in enumerate(_in_output_order(piece)))
    reduce = tuple(Dim(f"r{i}", d.extent) for i, d in enumerate(piece.reduce))
    values = {d.name: Affine.var(new.name) for d, new in zip(_in_output_order(piece), dims, strict=True)}
    values.update((d.name, Affine.var(new.name)) for d, new in zip(piece.reduce, reduce, strict=True))
    renamed = apply_to_piece(replace(piece, reduce=reduce), values, dims)
    return replace(renamed, guards=tuple(sorted(renamed.guards, key=str)))


def _in_output_order(piece: Piece) -> list[Dim]:
    """Parallel dims by their place in the output index, so that their order in the text is no difference."""

    def place(dim: Dim) -> tuple[int, int]:
        for axis, form in enumerate(piece.index):
            if form.coefficient(dim.name):
                return axis, -form.coefficient(dim.name)
        return len(piece.index), 0

    return sorted(piece.dims, key=place)
