"""Values with proven error bounds, and the check of a result against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from opc.dtypes import DType

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Choices:
    """Elements of an argmax or argmin that rounding leaves open: ``allowed[i, j]`` says whether
    index ``j`` may be the result at flat position ``positions[i]``.
    """

    positions: Array
    allowed: Array


@dataclass(frozen=True, slots=True)
class Bounded:
    """``value`` in float64 (integers in int64) and ``bound``, the largest error of any correct
    implementation in the tensor's ``dtype``; an infinite bound decides nothing.
    """

    value: Array
    bound: Array
    dtype: DType
    undecided: Choices | None = None

    @property
    def exact(self) -> bool:
        """Whether every correct implementation gives the same bits."""
        return self.undecided is None and not self.bound.any()


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of ``check``: the largest error in units of its bound, and where that is."""

    ok: bool
    max_ratio: float
    max_error: float
    failures: int
    index: tuple[int, ...]
    actual: float
    expected: float
    bound: float

    def __str__(self) -> str:
        place = list(self.index)
        return (
            f"{self.failures} elements outside their bound; worst at {place}: {self.actual!r}, expected "
            f"{self.expected!r} ± {self.bound:.3g} (error / bound = {self.max_ratio:.3g})"
        )


def check(actual: Array, expected: Bounded) -> Report:
    """Compare a result with the oracle.

    NaN matches NaN. Infinity also matches where value and bound reach the largest number of the dtype.
    """
    found = np.asarray(actual)
    if found.shape != expected.value.shape:
        raise ValueError(f"the result has the shape {found.shape}, the oracle {expected.value.shape}")
    found = found.astype(np.float64 if expected.dtype.is_float else np.int64)
    value, bound = expected.value, expected.bound
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(found - value)
        same = (found == value) | (np.isnan(found) & np.isnan(value))
        if expected.dtype.is_float:
            same |= _overflow(found, expected)
        if expected.undecided is not None:
            same |= _chosen(found, expected.undecided)
        error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
        ratio = np.where(error == 0, 0.0, np.where(np.isinf(bound), 0.0, error / bound))
    failed = ratio > 1
    at = int(np.argmax(ratio)) if ratio.size else 0
    index = tuple(int(i) for i in np.unravel_index(at, ratio.shape)) if ratio.size else ()
    picked = [float(a.reshape(-1)[at]) if ratio.size else 0.0 for a in (found, value, np.asarray(bound))]
    worst = float(ratio.max()) if ratio.size else 0.0
    largest = float(error.max()) if ratio.size else 0.0
    return Report(not failed.any(), worst, largest, int(failed.sum()), index, *picked)


def _overflow(found: Array, expected: Bounded) -> Array:
    """Where an infinity is right because the value, within its bound, is past the largest number."""
    reach = np.where(found > 0, expected.value, -expected.value) + expected.bound
    limit: Array = np.isinf(found) & (reach >= expected.dtype.largest)
    return limit


def _chosen(found: Array, choices: Choices) -> Array:
    """Where an index is one of those that rounding leaves open."""
    flat = np.zeros(found.size, dtype=bool)
    picked = found.reshape(-1)[choices.positions]
    legal = (picked >= 0) & (picked < choices.allowed.shape[1])
    rows = np.arange(len(picked))
    flat[choices.positions] = legal & choices.allowed[rows, np.where(legal, picked, 0)]
    return flat.reshape(found.shape)
