"""What is shown to cancel: the maxima of softmax and its relatives, and nothing that does not."""

from __future__ import annotations

import pytest

from passes.tensor._shifts import cancels
from passes.tensor.differentiate import differentiate
from tests.passes.tensor.gradients import assert_matches_differences, random_arrays, shipped, written

SOFTMAX = "t[i] = max[j](x[i, j])  e[i, j] = exp(x[i, j] - t[i])  z[i] = sum[k](e[i, k])  "
YES = (
    "y[i, j] = e[i, j] / z[i]",
    "y[i, j] = x[i, j] - t[i] - log(z[i])",
    "y[i, j] = (e[i, j] * e[i, j]) * rsqrt(z[i] * z[i]) / max(e[i, j], 0)",
    "y[i, j] = select(e[i, j] < z[i], e[i, j], 0) / z[i]",
    "y[i, j] = select(j < 2, 2 * log(z[i]) + 2 * t[i], 0) + min(e[i, j], 0.5 * z[i]) / sqrt(z[i] * z[i])",
    "y[0, j] = sum[m](e[m, j] / z[m])",
    "y[i, j] = exp(-t[i]) / (z[i] * exp(-2 * t[i])) * exp(-2 * t[i]) + e[i, j] / z[i]",
)
NO = (
    "y[i, j] = e[i, j]",
    "y[i, j] = e[i, j] / t[i]",
    "y[i, j] = log(z[i]) - t[i] + 0 * e[i, j]",
    "y[i, j] = e[i, j] / (z[i] + 1)",
    "y[i, j] = e[i, j] / (z[i - 1] else 1)",
    "y[i, j] = (e[i - 1, j] else 0) / z[i]",
    "y[i, j] = tanh(e[i, j]) / z[i]",
    "y[i, j] = select(e[i, j] < 1, e[i, j], 0) / z[i]",
    "a[j] = sum[m](e[m, j])  y[i, j] = a[j] / z[i]",
    "y[i, j] = (sum[m](x[i, m] - t[i]) + 4 * t[i]) * 1e-3 + e[i, j] / z[i]",
    "y[i, j] = abs(x[i, j] - t[i])",
)


@pytest.mark.parametrize("clauses", [*YES, *NO])
def test_cancels(clauses: str) -> None:
    shape = "1, N" if "y[0, j]" in clauses else "M, N"
    text = f"kernel f(x: T[M, N]) -> (y: T[{shape}]) {{ example M = 3, N = 4  {SOFTMAX}{clauses} }}"
    function = written(text, "f64")
    assert cancels(function, "t") is (clauses in YES)
    assert_matches_differences(function, random_arrays(function, 1))


@pytest.mark.parametrize("name", ["softmax", "softmax_cross_entropy", "attention_scores"])
def test_shipped(name: str) -> None:
    function = shipped(name, {})
    gradient = differentiate(function, [function.args[0].tensor.name])
    assert not any("winner" in t for f in (gradient.forward, gradient.backward) for t in f.results)
    assert not any(t.name.startswith("d_top") for op in gradient.backward.ops for t in op.outputs)
