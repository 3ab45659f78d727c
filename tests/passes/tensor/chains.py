"""Random functions of the kind that fuses: contractions, row reductions and pointwise ops over matching
shapes, with the dimensions of every op named afresh, grouped, permuted or of extent 1.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from opc.affine import Affine
from opc.dtypes import DType
from opc.tensor.ir import Arg, Call, Const, Dim, Expr, Function, Op, Piece, Read, Tensor

Draw = Any
NAMES = ("i", "j", "k", "m", "n")


@st.composite
def chains(draw: Draw, max_ops: int = 6) -> Function:
    """A function over a few shapes, so that many ops read one another at equal elements."""
    rows, columns, inner = (draw(st.integers(1, 4)) for _ in range(3))
    dtype = draw(st.sampled_from([DType.F32, DType.F16]))
    args = [
        Arg(Tensor("x", dtype, (rows, inner))),
        Arg(Tensor("w", dtype, (columns, inner)), "param"),
        Arg(Tensor("r", dtype, (rows, columns))),
        Arg(Tensor("scale", DType.F32, (columns,)), "param"),
        Arg(Tensor("var", DType.F32, (columns,)), "param"),
    ]
    tensors = [a.tensor for a in args]
    ops: list[Op] = []
    for position in range(draw(st.integers(1, max_ops))):
        name = f"t{position}"
        shape = (rows, columns)
        kind = draw(st.sampled_from(["contract", "pointwise", "pointwise", "pointwise", "reduce", "window"]))
        if kind == "contract":
            op = _contract(draw, name, Tensor(name, dtype, shape), inner)
        elif kind == "reduce":
            op = _reduce(draw, name, tensors, dtype)
        elif kind == "window":
            op = _window(draw, Tensor(name, dtype, shape), tensors)
        else:
            op = _pointwise(draw, Tensor(name, dtype, shape), tensors)
        ops.append(op)
        tensors += op.outputs
    made = [t.name for op in ops for t in op.outputs]
    results = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
    return Function("chain", tuple(args), tuple(results), tuple(ops))


def _dims(draw: Draw, shape: tuple[int, ...]) -> tuple[tuple[Dim, ...], tuple[Affine, ...]]:
    """Dimensions under random names, perhaps the last axis as outer and inner, and the index they make."""
    names = draw(st.permutations(NAMES))
    if len(shape) == 2 and shape[1] == 4 and draw(st.booleans()):
        dims = (Dim(names[0], shape[0]), Dim(names[1], 2), Dim(names[2], 2))
        return dims, (Affine.var(names[0]), Affine.of({names[1]: 2, names[2]: 1}))
    dims = tuple(Dim(n, extent) for n, extent in zip(names, shape, strict=False))
    index = tuple(Affine.var(d.name) for d in dims)
    return (dims if draw(st.booleans()) else dims[::-1]), index


def _contract(draw: Draw, name: str, out: Tensor, inner: int) -> Op:
    dims, index = _dims(draw, out.shape)
    x, w = Read("x", (index[0], Affine.var("c"))), Read("w", (index[1], Affine.var("c")))
    body = Call("mul", (x, w) if draw(st.booleans()) else (w, x))
    return Op((out,), (Piece(dims, index, body, (Dim("c", inner),)),), "sum", accumulate=DType.F32)


def _read(draw: Draw, tensors: list[Tensor], shape: tuple[int, ...], index: tuple[Affine, ...]) -> Expr:
    """A tensor at these elements, or at the row or column they are in."""
    full = [Read(t.name, index) for t in tensors if t.shape == shape]
    row = [Read(t.name, index[:1]) for t in tensors if t.shape == shape[:1] and len(shape) == 2]
    column = [Read(t.name, index[1:]) for t in tensors if t.shape == shape[1:] and len(shape) == 2]
    latest = full[-2:]
    return draw(st.sampled_from([*latest, *latest, *full, *row, *column] or [Const(1.0)]))


def _expression(draw: Draw, tensors: list[Tensor], shape: tuple[int, ...], index: tuple[Affine, ...]) -> Expr:
    result = _read(draw, tensors, shape, index)
    for _ in range(draw(st.integers(1, 4))):
        fn = draw(st.sampled_from(["add", "sub", "mul", "div", "max", "exp", "rsqrt", "neg"]))
        if fn in ("exp", "neg"):
            result = Call(fn, (result,))
        elif fn == "rsqrt":
            variance = _read(draw, [t for t in tensors if t.name == "var"], shape, index)
            result = Call("mul", (result, Call("rsqrt", (Call("add", (variance, Const(1e-5))),))))
        else:
            result = Call(
                fn,
                (result, draw(st.sampled_from([_read(draw, tensors, shape, index), Const(0.5), Const(1)]))),
            )
    return result


def _pointwise(draw: Draw, out: Tensor, tensors: list[Tensor]) -> Op:
    dims, index = _dims(draw, out.shape)
    return Op((out,), (Piece(dims, index, _expression(draw, tensors, out.shape, index)),))


def _reduce(draw: Draw, name: str, tensors: list[Tensor], dtype: DType) -> Op:
    """A reduction of the rows of a matrix, or moments of them."""
    source = draw(st.sampled_from([t for t in tensors if len(t.shape) == 2]))
    rows, columns = draw(st.permutations(NAMES))[:2]
    body: Expr = Read(source.name, (Affine.var(rows), Affine.var(columns)))
    monoid = draw(st.sampled_from(["sum", "max", "moments", "square"]))
    if monoid == "square":
        body, monoid = Call("mul", (body, body)), "sum"
    outputs = (Tensor(name, dtype, source.shape[:1]),)
    if monoid == "moments":
        outputs += (Tensor(name + "_m2", DType.F32, source.shape[:1]),)
    piece = Piece((Dim(rows, source.shape[0]),), (Affine.var(rows),), body, (Dim(columns, source.shape[1]),))
    return Op(outputs, (piece,), monoid, accumulate=DType.F32)


def _window(draw: Draw, out: Tensor, tensors: list[Tensor]) -> Op:
    """The largest of three neighbours in a row, or a sum of products over them, as a depthwise filter."""
    dims, index = _dims(draw, out.shape)
    source = draw(st.sampled_from([t for t in tensors if t.shape == out.shape]))
    read = Read(source.name, (index[0], index[1] + Affine.var("v") - 1), draw(st.sampled_from([0, 1.5])))
    window = (Dim("v", 3),)
    if draw(st.booleans()):
        body = Call("mul", (read, Read("scale", (index[1],))))
        return Op((out,), (Piece(dims, index, body, window),), "sum", accumulate=DType.F32)
    return Op((out,), (Piece(dims, index, read, window),), "max", accumulate=DType.F32)
