"""Hypothesis strategies: random valid tensor IR functions and arrays for them.

``functions()`` covers every construct that the verifier accepts: all dtypes, casts, conditions, dimension
values, fills, guards over parallel and reduced dimensions, every monoid, strided, flattened, permuted,
concatenated and phased outputs, prepare ops and in-place updates. Sizes stay small (``SIZE`` per
dimension), so that a scalar interpreter can execute them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from opc.affine import Affine
from opc.dtypes import DType
from opc.tensor.inputs import random_inputs
from opc.tensor.ir import Arg, Call, Const, Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor

SIZE = 4
FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)
INTS = (DType.I32, DType.I8)
ARITHMETIC = ("add", "sub", "mul", "max", "min")
SMOOTH = ("exp", "tanh", "erf", "sigmoid", "abs", "neg", "sqrt", "rsqrt", "log")
COMPARES = ("lt", "le", "gt", "ge", "eq", "ne")
CONSTANTS = (0, 1, 2, -1, 0.5, -0.25, 0.1, 1.5, 3.0)

Draw = Any


@dataclass
class _Scope:
    """Names made so far, and what the dimensions of the current piece are."""

    tensors: list[Tensor] = field(default_factory=list)
    params: set[str] = field(default_factory=set)  # parameters and prepare ops
    floats: tuple[DType, ...] = FLOATS
    dims: tuple[Dim, ...] = ()
    size: int = SIZE

    @property
    def extents(self) -> dict[str, int]:
        return {d.name: d.extent for d in self.dims}


@st.composite
def functions(draw: Draw, floats: tuple[DType, ...] = FLOATS, max_ops: int = 3, size: int = SIZE) -> Function:
    """A random function that verifies; ``floats`` are the float types it uses, ``size`` its largest extent."""
    scope = _Scope(floats=floats, size=size)
    args = []
    for i in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(1, size), max_size=3)))
        kind = draw(st.sampled_from(["input", "input", "param", "inout"])) if i else "input"
        dtype = draw(st.sampled_from([*floats, *floats, *INTS]))
        order = tuple(draw(st.permutations(range(len(shape))))) if draw(st.integers(0, 3)) == 0 else None
        tensor = Tensor(f"x{i}", dtype, shape, order)
        args.append(Arg(tensor, kind))
        scope.tensors.append(tensor)
        if kind == "param":
            scope.params.add(tensor.name)
    ops: list[Op] = []
    for i in range(draw(st.integers(1, max_ops))):
        ops.append(draw(_ops(scope, f"t{i}")))
        scope.tensors += ops[-1].outputs
    for arg in args:
        if arg.kind == "inout":
            ops.append(draw(_updates(scope, arg.tensor)))
    outputs = [t.name for op in ops for t in op.outputs if not op.prepare]
    results = draw(st.lists(st.sampled_from(outputs), min_size=1, unique=True)) if outputs else []
    doc = draw(st.sampled_from(["", 'a "quoted" doc\nover two lines', "größer als 0"]))
    return Function("random", tuple(args), tuple(results), tuple(ops), doc, "random.k" if doc else "")


@st.composite
def _updates(draw: Draw, scope: _Scope, tensor: Tensor) -> Op:
    """An op that updates ``tensor`` in place, reading it where it writes it."""
    dims = tuple(Dim(f"i{a}", n) for a, n in enumerate(tensor.shape))
    index = tuple(Affine.var(d.name) for d in dims)
    scope.dims = dims
    others = [t for t in scope.tensors if t.name != tensor.name]
    kind = "float" if tensor.dtype.is_float else "int"
    inner = _Scope(others or [tensor], scope.params, scope.floats, dims if others else ())
    other = draw(_expressions(inner, kind, 1)) if others else Const(1)
    return Op((tensor,), (Piece(dims, index, Call("sub", (Read(tensor.name, index), other))),))


@st.composite
def _ops(draw: Draw, scope: _Scope, name: str) -> Op:
    monoid = draw(st.sampled_from([None, None, "sum", "sum", "max", "min", "argmax", "argmin", "moments"]))
    dims = tuple(Dim(f"i{a}", draw(st.integers(1, scope.size))) for a in range(draw(st.integers(0, 3))))
    kind = "float" if monoid == "moments" or draw(st.integers(0, 3)) else "int"
    prepare = bool(scope.params) and draw(st.integers(0, 4)) == 0
    visible = [t for t in scope.tensors if t.name in scope.params] if prepare else scope.tensors
    inner = _Scope(visible, scope.params, scope.floats, size=scope.size)
    shape, layouts, fill = draw(_layouts(dims, scope.size))
    pieces = tuple(draw(_pieces(inner, own, index, guards, monoid, kind)) for own, index, guards in layouts)
    dtype = draw(st.sampled_from(scope.floats if kind == "float" or monoid is None else INTS))
    if monoid in ("argmax", "argmin") or (
        kind == "int" and monoid is None and dtype in (DType.F16, DType.BF16)
    ):
        dtype = DType.I32
    outputs = (Tensor(name, dtype, shape),)
    if monoid == "moments":
        outputs += (Tensor(name + ".m2", draw(st.sampled_from(scope.floats)), shape),)
    accumulate = None
    if monoid is not None:
        accumulate = DType.F64 if kind == "float" and DType.F64 in scope.floats else None
        if kind == "int":
            accumulate = draw(st.sampled_from([None, DType.I32]))
    if prepare:
        scope.params.update(t.name for t in outputs)
    return Op(outputs, pieces, monoid, fill, accumulate, prepare=prepare, line=draw(st.integers(0, 9)))


Layout = tuple[tuple[Dim, ...], tuple[Affine, ...], tuple[Affine, ...]]


@st.composite
def _layouts(
    draw: Draw, dims: tuple[Dim, ...], size: int
) -> tuple[tuple[int, ...], list[Layout], float | int | None]:
    """Output shape, the pieces' dimensions, indices and guards, and the fill they need."""
    plain = tuple(Affine.var(d.name) for d in dims)
    shape = tuple(d.extent for d in dims)
    fill = draw(st.sampled_from([0, 1, -2]))
    style = draw(st.sampled_from(["plain", "permuted", "strided", "flat", "concat", "phases", "guarded"]))
    if style == "permuted":
        order = draw(st.permutations(range(len(dims))))
        return tuple(shape[i] for i in order), [(dims, tuple(plain[i] for i in order), ())], None
    if style == "strided" and dims:
        stride, offset = draw(st.integers(1, 3)), draw(st.integers(0, 2))
        index = (plain[0] * stride + offset, *plain[1:])
        return ((dims[0].extent - 1) * stride + offset + 2, *shape[1:]), [(dims, index, ())], fill
    if style == "flat" and len(dims) > 1:
        index = (plain[0] * dims[1].extent + plain[1], *plain[2:])
        return (shape[0] * shape[1], *shape[2:]), [(dims, index, ())], None
    if style == "concat" and dims:
        other = (Dim("j", draw(st.integers(1, size))), *dims[1:])
        index = (Affine.var("j") + dims[0].extent, *plain[1:])
        return (shape[0] + other[0].extent, *shape[1:]), [(dims, plain, ()), (other, index, ())], None
    if style == "phases" and dims:
        first = (plain[0] * 2, *plain[1:])
        return (shape[0] * 2, *shape[1:]), [(dims, first, ()), (dims, (first[0] + 1, *first[1:]), ())], None
    if style == "guarded" and dims:
        guard = Affine.var(dims[0].name) * draw(st.sampled_from([1, -1])) + draw(st.integers(0, 2))
        if len(dims) > 1:
            guard = guard - Affine.var(dims[1].name)
        return shape, [(dims, plain, (guard,))], fill
    return shape, [(dims, plain, ())], None


@st.composite
def _pieces(
    draw: Draw,
    scope: _Scope,
    dims: tuple[Dim, ...],
    index: tuple[Affine, ...],
    guards: tuple[Affine, ...],
    monoid: str | None,
    kind: str,
) -> Piece:
    reduce: tuple[Dim, ...] = ()
    if monoid is not None:
        reduce = tuple(Dim(f"r{a}", draw(st.integers(1, scope.size))) for a in range(draw(st.integers(0, 2))))
    if reduce and draw(st.integers(0, 3)) == 0:
        guard = Affine.var(reduce[0].name, draw(st.sampled_from([1, -1]))) + draw(st.integers(-1, 2))
        guards += (guard + Affine.var(dims[0].name) if dims else guard,)
    scope.dims = (*dims, *reduce)
    if monoid == "sum" and draw(st.booleans()):
        body: Expr = Call("mul", (draw(_reads(scope, kind)), draw(_reads(scope, kind))))
    else:
        body = draw(_expressions(scope, kind, 2))
    return Piece(dims, index, body, reduce, guards)


@st.composite
def _expressions(draw: Draw, scope: _Scope, kind: str, depth: int) -> Expr:
    """An expression of ``kind`` "float" or "int"."""
    choice = draw(st.integers(0, 9)) if depth else 0
    if choice < 3:
        return draw(_reads(scope, kind))
    operand = _expressions(scope, kind, depth - 1)
    if choice < 6:
        second = st.builds(Const, st.sampled_from(CONSTANTS if kind == "float" else (0, 1, -3, 7)))
        return Call(draw(st.sampled_from(ARITHMETIC)), (draw(operand), draw(st.one_of(operand, second))))
    if choice == 6:
        sides = _expressions(scope, draw(st.sampled_from(["float", "int"])), depth - 1)
        condition = Call(draw(st.sampled_from(COMPARES)), (draw(sides), draw(sides)))
        return Call("select", (condition, draw(operand), draw(operand)))
    if kind == "int":
        if choice == 7:
            return Call(
                draw(st.sampled_from(["i32", "i8"])), (draw(_expressions(scope, "float", depth - 1)),)
            )
        return Call(draw(st.sampled_from(["neg", "abs"])), (draw(operand),))
    if choice == 7:
        return Call("div", (draw(operand), draw(operand)))
    if choice == 8:
        cast = draw(st.sampled_from([str(d) for d in scope.floats]))
        return Call(cast, (draw(_expressions(scope, draw(st.sampled_from(["float", "int"])), depth - 1)),))
    return Call(draw(st.sampled_from(SMOOTH)), (draw(operand),))


@st.composite
def _reads(draw: Draw, scope: _Scope, kind: str) -> Expr:
    """A read of a tensor of this kind, or what stands for one where there is none."""
    wanted = [t for t in scope.tensors if t.dtype.is_float == (kind == "float")]
    if not wanted or (kind == "int" and draw(st.booleans())):
        form = draw(_forms(scope, scope.size))
        return DimValue(form) if kind == "int" else Call("f32", (DimValue(form),))
    tensor = draw(st.sampled_from(wanted))
    index = tuple(draw(_forms(scope, extent)) for extent in tensor.shape)
    reach = [form.interval(scope.extents) for form in index]
    outside = any(low < 0 or high >= n for (low, high), n in zip(reach, tensor.shape, strict=True))
    fills: list[float | int | None] = [0, 1] if kind == "int" else [0.0, 0, 1.5, float("-inf")]
    return Read(tensor.name, index, draw(st.sampled_from(fills)) if outside else None)


@st.composite
def _forms(draw: Draw, scope: _Scope, extent: int) -> Affine:
    """An affine index, mostly one that stays inside ``extent``."""
    fitting = [d for d in scope.dims if d.extent <= extent]
    style = draw(st.integers(0, 6))
    if fitting and style < 4:
        return Affine.var(draw(st.sampled_from(fitting)).name)
    if not scope.dims or style == 4:
        return Affine((), draw(st.integers(0, extent - 1)))
    form = Affine((), draw(st.integers(-1, 2)))
    for _ in range(draw(st.integers(1, 2))):
        form = form + Affine.var(draw(st.sampled_from(scope.dims)).name, draw(st.sampled_from([1, 1, 2, -1])))
    return form


def arrays(f: Function, seed: int, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """Arguments for ``f``; ``kind`` as in ``opc.tensor.inputs``."""
    return random_inputs(f, seed, kind)
