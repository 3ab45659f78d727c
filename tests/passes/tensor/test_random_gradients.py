"""Gradients of random comprehensions against central differences: any affine index, guards, fills, every monoid."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from opc.affine import Affine
from opc.dtypes import DType
from opc.tensor.ir import Arg, Call, Const, Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor
from opc.tensor.verify import problems
from passes.tensor.differentiate import differentiate
from tests.passes.tensor.gradients import assert_matches_differences, differentiable
from tests.strategies.tensor import functions

EXAMPLES = settings(
    max_examples=int(os.environ.get("OPC_EXAMPLES", "150")),
    deadline=None,
    derandomize="OPC_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
STEPS = st.sampled_from([1, 1, 1, 2, 2, 3, 4, -1, -2])
X, W = Tensor("x", DType.F64, (6, 4)), Tensor("w", DType.F64, (5,))


@st.composite
def comprehensions(draw: st.DrawFn) -> Function:
    dims = tuple(Dim(f"i{a}", draw(st.integers(1, 4))) for a in range(draw(st.integers(1, 3))))
    monoid = draw(st.sampled_from([None, "sum", "sum", "sum", "max", "min", "moments"]))
    count = 0 if monoid is None else draw(st.integers(1, 3))
    reduce = tuple(Dim(f"r{a}", draw(st.integers(1, 4))) for a in range(count))
    extents = {d.name: d.extent for d in (*dims, *reduce)}
    body = draw(_bodies(draw(_reads(X, extents)), draw(_reads(W, extents)), extents))
    guards: tuple[Affine, ...] = ()
    if reduce and monoid != "moments" and draw(st.booleans()):
        guards = (Affine.var(dims[0].name) - Affine.var(reduce[0].name) + draw(st.integers(0, 2)),)
    index = tuple(Affine.var(d.name, 2) + 1 for d in dims) if draw(st.booleans()) else _plain(dims)
    shape = tuple(form.interval(extents)[1] + 1 for form in index)
    names = ("y", "z") if monoid == "moments" else ("y",)
    outputs = tuple(Tensor(name, DType.F64, shape) for name in names)
    fill = None if index == _plain(dims) and not any(g.names <= set(_names(dims)) for g in guards) else 0.5
    op = Op(outputs, (Piece(dims, index, body, reduce, guards),), monoid, fill)
    return Function("f", (Arg(X), Arg(W, "param")), names, (op,))


def _plain(dims: tuple[Dim, ...]) -> tuple[Affine, ...]:
    return tuple(Affine.var(d.name) for d in dims)


def _names(dims: tuple[Dim, ...]) -> list[str]:
    return [d.name for d in dims]


@st.composite
def _reads(draw: st.DrawFn, tensor: Tensor, extents: dict[str, int]) -> Read:
    index = []
    for _ in tensor.shape:
        form = Affine((), draw(st.integers(-2, 2)))
        for name in draw(st.lists(st.sampled_from(sorted(extents)), unique=True, max_size=3)):
            form = form + Affine.var(name, draw(STEPS))
        index.append(form)
    return Read(tensor.name, tuple(index), draw(st.sampled_from([0, 0.5])))


@st.composite
def _bodies(draw: st.DrawFn, x: Read, w: Read, extents: dict[str, int]) -> Expr:
    place = Call("f64", (DimValue(Affine.var(draw(st.sampled_from(sorted(extents))))),))
    second = draw(st.sampled_from([w, place, Call("tanh", (w,)), Const(0.7)]))
    first = draw(st.sampled_from([x, Call("exp", (x,)), Call("mul", (x, x)), Call("sigmoid", (x,))]))
    product = Call("mul", (first, second))
    return draw(
        st.sampled_from([product, product, Call("add", (product, x)), Call("erf", (Call("sub", (x, w)),))])
    )


@EXAMPLES
@given(comprehensions(), st.integers(0, 99))
def test_comprehensions(f: Function, seed: int) -> None:
    if problems(f):
        return
    random = np.random.default_rng(seed)
    # Values of which no two are near, so that a small step changes no maximum.
    values = (random.permutation(29) + 1) * 0.05
    assert_matches_differences(f, {"x": values[:24].reshape(6, 4), "w": values[24:]}, seed)


@EXAMPLES
@given(functions())
def test_every_gradient_is_a_valid_function(f: Function) -> None:
    updated = {a.tensor.name for a in f.args if a.kind == "inout"}
    starts = [t.name for op in f.ops for t in op.outputs if t.dtype.is_float and t.name not in updated]
    wrt = differentiable(f)
    if not wrt or not set(starts) & set(f.results):
        return
    gradient = differentiate(f, wrt)
    assert not problems(gradient.forward)
    assert not problems(gradient.backward)
