"""Gradients of the operators against PyTorch's, both in float64, on random sizes and hard data.

``make test-long`` sets OPC_EXAMPLES: more cases, new ones each time.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import kernels_dsl
from opc import driver, machine
from opc.lang import File, kernel_info, parse
from opc.tensor.ir import Function
from tests.passes.tensor.gradients import at, differentiable, widened, written
from tests.passes.tensor.operators import OPERATORS, Operator

torch = pytest.importorskip("torch")
Array = Any

# Few distinct values tie; no variance; variance near 0; a mean far from 0.
KINDS = ("normal", "few", "constant", "still", "shifted")
EXAMPLES = settings(
    max_examples=int(os.environ.get("OPC_EXAMPLES", "200")),
    deadline=None,
    derandomize="OPC_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@cache
def source(name: str) -> File:
    return parse(kernels_dsl.source(name), f"kernels_dsl/{name}.k")


def function(name: str, sizes: dict[str, int]) -> Function:
    info = kernel_info(source(name), name, name)
    known = {*info.symbols, *(a.name for a in info.attributes)}
    chosen = {n: v for n, v in sizes.items() if n in known}
    return widened(driver.specialise(source(name), name, machine.load("avx2"), name, chosen, "f64"))


def drawn(f: Function, kind: str, seed: int, sizes: dict[str, int]) -> dict[str, Array]:
    """Arguments; parameters are normal so that ``kind`` is about what flows through."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for arg in f.args:
        shape = arg.tensor.shape
        values = random.standard_normal(shape)
        if arg.tensor.name == "labels":
            found["labels"] = random.integers(-1, sizes["C"], shape).astype(np.int32)
            found["labels"].flat[0] = 0  # the mean over no rows is no number
        elif arg.tensor.name in ("var", "running_var"):
            found[arg.tensor.name] = values * values + 1e-3
        elif arg.kind == "param" or arg.tensor.name in ("gamma", "beta"):
            found[arg.tensor.name] = values
        else:
            found[arg.tensor.name] = shaped(values, kind)
    return found


def shaped(values: Array, kind: str) -> Array:
    table = {
        "normal": lambda: values,
        "few": lambda: np.round(values),
        "constant": lambda: np.full(values.shape, 1.25),
        "still": lambda: 3 + 1e-6 * values,
        "shifted": lambda: 1e4 + values,
    }
    return table[kind]()


def references(
    operator: Operator, arrays: dict[str, Array], sizes: dict[str, int], seeds: list[Array]
) -> tuple[list[Array], dict[str, Array]]:
    """Results in PyTorch, and gradients of ``sum(result * seed)``."""
    floats = {n: a.dtype == np.float64 for n, a in arrays.items()}
    tensors = {n: torch.tensor(a, requires_grad=floats[n]) for n, a in arrays.items()}
    results = operator.reference(tensors, sizes)
    sum((r * torch.tensor(s)).sum() for r, s in zip(results, seeds, strict=True)).backward()
    gradients = {n: np.zeros(t.shape) if t.grad is None else t.grad.numpy() for n, t in tensors.items()}
    return [r.detach().numpy() for r in results], gradients


def spread(
    operator: Operator, arrays: dict[str, Array], sizes: dict[str, int], seeds: list[Array]
) -> dict[str, float]:
    """How far PyTorch's gradients move with the last places of the arguments: no float64 code can tell more.

    Two pixels far from 0 have a deviation as small as chance wants, and rounding is divided by it.
    """
    random = np.random.default_rng(1)
    gradients = []
    for _ in range(5):
        units = {n: 1 + 2.0**-50 * random.standard_normal(a.shape) for n, a in arrays.items()}
        nearby = {n: a * units[n] if a.dtype == np.float64 else a for n, a in arrays.items()}
        gradients.append(references(operator, nearby, sizes, seeds)[1])
    return {n: 16 * float(np.ptp([g[n] for g in gradients], axis=0).max()) for n in arrays}


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients(name: str) -> None:
    operator = OPERATORS[name]

    @EXAMPLES
    @given(operator.sizes, st.sampled_from(KINDS), st.integers(0, 2**31))
    def holds(sizes: dict[str, int], kind: str, seed: int) -> None:
        f = function(name, sizes)
        arrays = drawn(f, kind, seed, sizes)
        found = at(f, differentiable(f), arrays, seed)
        seeds = list(found.seeds.values())
        results, gradients = references(operator, arrays, sizes, seeds)
        slack = 1e-5 if kind == "shifted" else 1e-9  # a mean beside few terms that differ by little
        for result, want in zip(f.results, results, strict=False):
            assert_close(found.results[result], want, result, slack * (1 + np.abs(want).max()))
        unknown = (
            spread(operator, arrays, sizes, seeds) if kind == "shifted" else dict.fromkeys(gradients, 0.0)
        )
        for argument, got in found.gradients.items():
            want = gradients[argument]
            assert_close(got, want, f"d_{argument}", slack * (1 + np.abs(want).max()) + unknown[argument])

    holds()


def assert_close(got: Array, want: Array, what: str, slack: float) -> None:
    """Equal to what float64 can tell: terms cancel, so that ``slack`` is absolute."""
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=slack, err_msg=what)


SCALARS: dict[str, Any] = {
    "exp(x[i])": torch.exp,
    "log(x[i])": torch.log,
    "sqrt(x[i])": torch.sqrt,
    "rsqrt(x[i])": torch.rsqrt,
    "tanh(x[i])": torch.tanh,
    "erf(x[i])": torch.erf,
    "sigmoid(x[i])": torch.sigmoid,
    "abs(x[i])": torch.abs,
    "1 / x[i]": torch.reciprocal,
    "x[i] / (1 + x[i])": lambda x: x / (1 + x),
    "max(x[i], 0)": torch.relu,
    "min(max(x[i], 0), 6)": torch.nn.functional.relu6,
    "max(x[i], -x[i])": lambda x: torch.maximum(x, -x),
    "min(x[i], 2 * x[i])": lambda x: torch.minimum(x, 2 * x),
    "select(x[i] > 1, x[i] * x[i], -x[i])": lambda x: torch.where(x > 1, x * x, -x),
}


@pytest.mark.parametrize("text", SCALARS)
def test_scalar_functions(text: str) -> None:
    """Ties, both sides of every bend, poles and infinities included."""
    values = np.array([-3, -1, -0.5, 0.0, 0.5, 1, 2, 6, 7.5, 1e-3, np.inf])
    f = written(f"kernel f(x: T[N]) -> (y: T[N]) {{ y[i] = {text} }}", N=len(values))
    found = at(f, ["x"], {"x": values})
    x = torch.tensor(values, requires_grad=True)
    (SCALARS[text](x) * torch.tensor(found.seeds["d_y"])).sum().backward()
    np.testing.assert_allclose(found.gradients["x"], x.grad.numpy(), rtol=1e-9)
