"""Random kernels: the lowered function computes what a direct reading of the syntax tree computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opc.dtypes import DType
from opc.errors import LanguageError
from opc.lang import lower, parse
from opc.lang import syntax as ast
from opc.tensor.interpret import evaluate
from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import verify

Env = Mapping[str, float]
Tensors = Mapping[str, np.ndarray[Any, Any]]
SCALARS = {
    "exp": lambda a: math.exp(min(a, 50)),
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "abs": abs,
    "min": min,
    "max": max,
    "T": float,
    "select": lambda c, a, b: a if c else b,
}
BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
}


def value(node: ast.Expr, env: Env, tensors: Tensors) -> float:
    """One element of an expression, by the book."""
    if isinstance(node, ast.Number):
        return node.value
    if isinstance(node, ast.Name):
        return env[node.name]
    if isinstance(node, ast.Negate):
        return -value(node.operand, env, tensors)
    if isinstance(node, ast.Binary):
        return BINARY[node.op](value(node.left, env, tensors), value(node.right, env, tensors))
    if isinstance(node, ast.Call):
        return SCALARS[node.function](*(value(a.value, env, tensors) for a in node.args))  # type: ignore[arg-type]
    if isinstance(node, ast.Read):
        return element(node, env, tensors)
    assert isinstance(node, ast.Reduction)
    return reduced(node, env, tensors)


def element(node: ast.Read, env: Env, tensors: Tensors) -> float:
    array = tensors[node.tensor]
    index = tuple(int(value(i, env, tensors)) for i in node.indices)
    if all(0 <= i < extent for i, extent in zip(index, array.shape, strict=True)):
        return float(array[index])
    assert node.fill is not None
    return value(node.fill, env, tensors)


def reduced(node: ast.Reduction, env: Env, tensors: Tensors) -> float:
    ranges = [range(int(value(d.extent, env, tensors))) for d in node.dims if d.extent is not None]
    points = [{**env, **dict(zip((d.name for d in node.dims), p, strict=True))} for p in product(*ranges)]
    terms = [value(node.body, p, tensors) for p in points]
    if node.monoid == "sum":
        return math.fsum(terms)
    if node.monoid.startswith("arg"):
        best = max(terms) if node.monoid == "argmax" else min(terms)
        return terms.index(best)
    return max(terms) if node.monoid == "max" else min(terms)


def clause(node: ast.Assign, env: Env, tensors: Tensors, out: np.ndarray[Any, Any]) -> None:
    """Write every element of a clause whose dimensions all have bounds."""
    (target,) = node.targets
    ranges = [range(int(value(d.extent, env, tensors))) for d in node.domain if d.extent is not None]
    for point in product(*ranges):
        here = {**env, **dict(zip((d.name for d in node.domain), point, strict=True))}
        index = tuple(int(value(i, here, tensors)) for i in target.indices or ())
        assert math.isnan(out[index]), "written twice"
        out[index] = value(node.value, here, tensors)


@st.composite
def expressions(draw: st.DrawFn, dims: tuple[str, ...], tensors: tuple[str, ...], depth: int = 3) -> str:
    """Source text of an expression over ``dims``, reading 2-D tensors with ``else``."""
    kinds = ["literal", "dim", "size", "read"]
    if depth:
        kinds += ["read", "read", "binary", "binary", "function", "select", "reduction"]
    kind = draw(st.sampled_from(kinds))
    if kind == "literal":
        return draw(st.sampled_from(["0.5", "-1.25", "2.0", "3"]))
    if kind == "dim":
        # Integers do not meet literals with a point, so T makes a float of them.
        return f"T({draw(indices(dims))})"
    if kind == "size":
        return draw(st.sampled_from(["N", "M", "a", "(N - M)", "T(2*M)"]))
    if kind == "read":
        index = [draw(indices(dims)) for _ in range(2)]
        fill = draw(st.sampled_from(["0", "-1", "0.5", "a"]))
        return f"({draw(st.sampled_from(tensors))}[{', '.join(index)}] else {fill})"

    def inner(more: tuple[str, ...] = ()) -> str:
        return draw(expressions((*dims, *more), tensors, depth - 1))

    if kind == "binary":
        return f"({inner()} {draw(st.sampled_from('+-*'))} {inner()})"
    if kind == "function":
        name = draw(st.sampled_from(["tanh", "sigmoid", "abs", "min", "max", "T", "-"]))
        if name in ("min", "max"):
            return f"{name}({inner()}, {inner()})"
        return f"{name}({inner()})"
    if kind == "select":
        return f"select({inner()} {draw(st.sampled_from(['<', '>=']))} {inner()}, {inner()}, {inner()})"
    name = f"r{depth}"
    extent = draw(st.sampled_from(["2", "M", "N - 1"]))
    monoid = draw(st.sampled_from(["sum", "sum", "max", "min", "argmax"]))
    # A reduction of integer literals is an integer, which floating-point functions refuse.
    return f"T({monoid}[{name} < {extent}]({inner((name,))}))"


@st.composite
def indices(draw: st.DrawFn, dims: tuple[str, ...]) -> str:
    """An affine index."""
    parts = [
        f"{draw(st.integers(-2, 2))}*{draw(st.sampled_from(dims))}" for _ in range(draw(st.integers(1, 2)))
    ]
    return " + ".join([*parts, draw(st.sampled_from(["0", "1", "-1", "N - 2", "M"]))])


@st.composite
def kernels(draw: st.DrawFn) -> str:
    """A kernel with an intermediate tensor in two pieces and a result."""
    first = draw(expressions(("i", "j"), ("x",)))
    second = draw(expressions(("p", "q"), ("x",)))
    last = draw(expressions(("i", "j"), ("x", "t")))
    return f"""kernel f(x: T[N, M], a: f32 = 0.25) -> (y: T[N, M]) {{
      example N = {draw(st.integers(2, 4))}, M = {draw(st.integers(1, 3))}
      t[2*i + 1, j] = T({first}) for i < N, j < M
      t[2*p, M - 1 - q] = T({second}) for p < N, q < M
      y[i, j] = T({last}) for i < N, j < M
    }}"""


@given(kernels(), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_lowering_keeps_the_meaning(text: str, seed: int) -> None:
    f = lower(text, dtype=DType.F64)
    verify(f)
    assert parse_function(print_function(f)) == f
    n, m = f.args[0].tensor.shape
    x = np.random.default_rng(seed).integers(-3, 4, (n, m)) / 2
    env: Env = {"N": n, "M": m, "a": 0.25}
    t, y = np.full((2 * n, m), np.nan), np.full((n, m), np.nan)
    clauses = [c for c in parse(text).kernels[0].clauses if isinstance(c, ast.Assign)]
    clause(clauses[0], env, {"x": x}, t)
    clause(clauses[1], env, {"x": x}, t)
    clause(clauses[2], env, {"x": x, "t": t}, y)
    np.testing.assert_allclose(evaluate(f, {"x": x})["y"], y, rtol=1e-9, atol=1e-9)


@given(kernels(), st.sampled_from(list(DType)))
@settings(max_examples=80, deadline=None)
def test_what_lowers_is_valid_for_every_type(text: str, dtype: DType) -> None:
    """The language refuses what tensor IR would: no kernel passes the one and fails the other."""
    try:
        f = lower(text, dtype=dtype)
    except LanguageError:
        if dtype.is_float:
            raise
        return
    verify(f)
    assert parse_function(print_function(f)) == f
