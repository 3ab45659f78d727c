"""Scalar functions and reduction monoids: one declaration each, read by every layer.

The language checks names and arity here, the interpreters evaluate here, and machine
files list the names their vector unit runs natively.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ScalarFunction:
    """``ulp``: error of any opc implementation, in units of the compute type's last place
    (0.5 is correctly rounded). ``kind`` gives the result type: "arithmetic" promotes,
    "compare" yields a condition, "select" is (condition, a, b), "cast" names its type.
    """

    name: str
    arity: int
    ulp: float
    kind: str
    doc: str


_TABLE = (
    ScalarFunction("add", 2, 0.5, "arithmetic", "a + b"),
    ScalarFunction("sub", 2, 0.5, "arithmetic", "a - b"),
    ScalarFunction("mul", 2, 0.5, "arithmetic", "a * b"),
    ScalarFunction("div", 2, 0.5, "arithmetic", "a / b"),
    ScalarFunction("neg", 1, 0.0, "arithmetic", "-a"),
    ScalarFunction("abs", 1, 0.0, "arithmetic", "absolute value"),
    ScalarFunction("max", 2, 0.0, "arithmetic", "larger value; NaN wins"),
    ScalarFunction("min", 2, 0.0, "arithmetic", "smaller value; NaN wins"),
    ScalarFunction("exp", 1, 2.0, "float", "e to the a"),
    ScalarFunction("log", 1, 2.0, "float", "natural logarithm"),
    ScalarFunction("sqrt", 1, 1.0, "float", "square root"),
    ScalarFunction("rsqrt", 1, 2.0, "float", "1 / sqrt(a)"),
    ScalarFunction("tanh", 1, 4.0, "float", "hyperbolic tangent"),
    ScalarFunction("erf", 1, 4.0, "float", "error function"),
    ScalarFunction("sigmoid", 1, 4.0, "float", "1 / (1 + exp(-a))"),
    ScalarFunction("lt", 2, 0.0, "compare", "a < b"),
    ScalarFunction("le", 2, 0.0, "compare", "a <= b"),
    ScalarFunction("gt", 2, 0.0, "compare", "a > b"),
    ScalarFunction("ge", 2, 0.0, "compare", "a >= b"),
    ScalarFunction("eq", 2, 0.0, "compare", "a == b"),
    ScalarFunction("ne", 2, 0.0, "compare", "a != b"),
    ScalarFunction("select", 3, 0.0, "select", "b where the condition a holds, else c"),
    ScalarFunction("f64", 1, 0.5, "cast", "convert to f64"),
    ScalarFunction("f32", 1, 0.5, "cast", "convert to f32"),
    ScalarFunction("f16", 1, 0.5, "cast", "convert to f16"),
    ScalarFunction("bf16", 1, 0.5, "cast", "convert to bf16"),
    ScalarFunction("i32", 1, 0.5, "cast", "convert to i32, toward zero, saturating"),
    ScalarFunction("i8", 1, 0.5, "cast", "convert to i8, to nearest even, saturating"),
)
FUNCTIONS: dict[str, ScalarFunction] = {f.name: f for f in _TABLE}


@dataclass(frozen=True, slots=True)
class Monoid:
    """A declared reduction. ``outputs`` are its results; ``identity`` its start value.

    ``sum``: identity 0. ``max``/``min``: -inf/inf, NaN wins. ``argmax``/``argmin``: i32 row-major
    index over the reduced dimensions, lowest index wins, the first NaN wins.
    ``moments``: (mean, m2) with m2 the sum of squared deviations, merged by Chan's rule.
    """

    name: str
    outputs: int
    identity: float
    doc: str


MONOIDS: dict[str, Monoid] = {
    m.name: m
    for m in (
        Monoid("sum", 1, 0.0, "sum of all terms"),
        Monoid("max", 1, float("-inf"), "largest term"),
        Monoid("min", 1, float("inf"), "smallest term"),
        Monoid("argmax", 1, float("-inf"), "index of the largest term"),
        Monoid("argmin", 1, float("inf"), "index of the smallest term"),
        Monoid("moments", 2, 0.0, "mean and sum of squared deviations"),
    )
}


def numpy_function(name: str) -> Callable[..., Any]:
    """Elementwise NumPy evaluation of an arithmetic, float or compare function (not casts)."""
    import numpy as np

    table: dict[str, Callable[..., Any]] = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "neg": np.negative,
        "abs": np.abs,
        "max": np.maximum,
        "min": np.minimum,
        "exp": np.exp,
        "log": np.log,
        "sqrt": np.sqrt,
        "rsqrt": lambda a: 1 / np.sqrt(a),
        "tanh": np.tanh,
        "erf": _erf,
        "sigmoid": _sigmoid,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
        "select": np.where,
    }
    return table[name]


def _erf(a: Any) -> Any:
    import math

    import numpy as np

    result = np.vectorize(math.erf, otypes=[np.float64])(a)
    return result.astype(np.asarray(a).dtype)


def _sigmoid(a: Any) -> Any:
    import numpy as np

    # exp of a non-positive number only, so neither branch overflows.
    e = np.exp(-np.abs(a))
    return np.where(np.asarray(a) >= 0, 1 / (1 + e), e / (1 + e))
