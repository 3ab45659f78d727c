"""What tests of gradients share: functions in float64, both halves of a gradient evaluated, finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import kernels_dsl
from opc import driver, machine
from opc.dtypes import DType
from opc.lang import parse
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Call, Const, Expr, Function, Tensor, rewrite
from opc.tensor.text import parse_function, print_function
from opc.tensor.verify import verify
from passes.tensor.differentiate import Gradient, differentiate

Array = Any
_FLOATS = ("f64", "f32", "f16", "bf16")


def shipped(name: str, sizes: Mapping[str, int], dtype: str = "f64") -> Function:
    """A kernel of the operator library."""
    source = parse(kernels_dsl.source(name), f"kernels_dsl/{name}.k")
    return driver.specialise(source, f"kernels_dsl/{name}.k", machine.load("avx2"), name, sizes, dtype)


def written(text: str, dtype: str = "f64", **sizes: int | float) -> Function:
    """A kernel of the given text."""
    return driver.specialise(parse(text, "test.k"), "test.k", machine.load("avx2"), None, sizes, dtype)


def widened(f: Function) -> Function:
    """The function in float64, so that its values have no other rounding than the interpreter's."""
    return in_type(f, DType.F64)


def in_type(f: Function, dtype: DType) -> Function:
    """The function with every float as ``dtype``."""
    computed = str(dtype.compute)

    def tensor(t: Tensor) -> Tensor:
        return replace(t, dtype=dtype) if t.dtype.is_float else t

    def leaf(node: Expr) -> Expr:
        if isinstance(node, Call) and node.fn in _FLOATS:
            return Call(computed, node.args)
        typed = isinstance(node, Const) and node.dtype is not None and node.dtype.is_float
        return replace(node, dtype=dtype.compute) if typed else node

    ops = tuple(
        replace(
            op,
            outputs=tuple(map(tensor, op.outputs)),
            accumulate=dtype.compute if op.accumulate and op.accumulate.is_float else op.accumulate,
            pieces=tuple(replace(p, body=rewrite(p.body, leaf)) for p in op.pieces),
        )
        for op in f.ops
    )
    return replace(f, args=tuple(replace(a, tensor=tensor(a.tensor)) for a in f.args), ops=ops)


@dataclass
class Evaluated:
    """A gradient at a point: results of the function, and the gradients of ``sum(result * seed)``."""

    gradient: Gradient
    results: dict[str, Array]
    seeds: dict[str, Array]
    gradients: dict[str, Array]


def differentiable(f: Function) -> list[str]:
    """Arguments that have a gradient."""
    return [a.tensor.name for a in f.args if a.tensor.dtype.is_float and a.kind != "inout"]


def at(f: Function, wrt: Sequence[str], arrays: Mapping[str, Array], seed: int = 0) -> Evaluated:
    """Both functions of the gradient, evaluated with random gradients of the results."""
    random = np.random.default_rng(seed)
    gradient = differentiate(f, wrt)
    results = evaluate(gradient.forward, arrays)
    table = gradient.backward.tensors()
    names = [a.tensor.name for a in gradient.backward.args]
    assert tuple(names[: len(gradient.saved)]) == gradient.saved
    seeds = {n: random.standard_normal(table[n].shape) for n in names[len(gradient.saved) :]}
    found = evaluate(gradient.backward, {**arrays, **results, **seeds})
    wanted = {name: found[r] for name, r in zip(wrt, gradient.backward.results, strict=True)}
    return Evaluated(gradient, results, seeds, wanted)


def random_arrays(f: Function, seed: int) -> dict[str, Array]:
    """Arguments of normal values; variances are positive."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for arg in f.args:
        t = arg.tensor
        values = random.standard_normal(t.shape) if t.dtype.is_float else random.integers(-3, 4, t.shape)
        found[t.name] = np.abs(values) + 0.1 if t.name == "var" else values
    return found


def assert_matches_differences(f: Function, arrays: Mapping[str, Array], seed: int = 0) -> None:
    """Compare with central differences along random directions, where the function is smooth."""
    wrt = differentiable(f)
    found = at(f, wrt, arrays, seed)
    for half in (found.gradient.forward, found.gradient.backward):
        verify(half)
        assert print_function(parse_function(print_function(half), "")) == print_function(half)
    random = np.random.default_rng(seed + 1)
    for name in wrt:
        direction = random.standard_normal(arrays[name].shape)
        sides = [evaluate(f, {**arrays, name: arrays[name] + step * direction}) for step in (1e-5, -1e-5)]
        change = sum(
            float(((sides[0][r] - sides[1][r]) * found.seeds[f"d_{r}"]).sum())
            for r in f.results
            if f"d_{r}" in found.seeds
        )
        got = float((found.gradients[name] * direction).sum())
        size = 1 + float(np.abs(found.gradients[name] * direction).sum())
        assert abs(got - change / 2e-5) <= 1e-6 * size, f"{f.name}: d_{name} is {got}, not {change / 2e-5}"
