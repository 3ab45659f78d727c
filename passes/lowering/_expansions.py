"""Scalar functions in terms of simpler ones, for vector units that lack them.

The polynomial coefficients are least-squares Chebyshev fits in float64, rounded to f32; the error of
each expansion in f32 arithmetic stays within the ulp that ``opc.scalar`` states (a test measures it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

V = TypeVar("V")


class Builder(Protocol[V]):
    """Emits one vector operation on whole tiles."""

    def __call__(self, fn: str, *args: V | float) -> V: ...


def _horner(b: Builder[V], coefficients: Sequence[float], u: V) -> V:
    """Polynomial in ``u``, constant term first."""
    total = b("add", b("mul", u, coefficients[-1]), coefficients[-2])
    for c in reversed(coefficients[:-2]):
        total = b("add", b("mul", total, u), c)
    return total


# (tanh(x)/x - 1)/x^2 in x^2 on [0, 0.65^2].
_TANH = (-0.33333334, 0.13333292, -0.05395654, 0.021747444, -0.008275872, 0.0022181443)
# erf(x)/x in x^2 on [0, 1].
_ERF = (
    1.1283792257308960, -0.37612637877464294, 0.11283782869577408, -0.026865437626838684,
    0.005221053492277861, -0.0008484396385028958, 0.00011268253729213029, -9.673591193859465e-06,
)  # fmt: skip
# erfc(x) * exp(x^2) in 1/(1 + x/2) for x in [1, 4.2].
_ERFCX = (
    -0.0001054160384228453, 0.2840762138366699, 0.26591065526008606, 0.32156437635421753, -0.03505692258477211,
    0.4496222138404846, -0.35447150468826294, 0.05142967775464058, 0.017141660675406456,
)  # fmt: skip


def _neg(b: Builder[V], x: V) -> V:
    return b("mul", x, -1.0)  # 0 - x would lose the sign of zero


def _abs(b: Builder[V], x: V) -> V:
    return b("max", x, b("mul", x, -1.0))


def _rsqrt(b: Builder[V], x: V) -> V:
    return b("div", 1.0, b("sqrt", x))


def _sigmoid(b: Builder[V], x: V) -> V:
    # exp of a non-positive number only: it cannot overflow.
    e = b("exp", b("mul", b("abs", x), -1.0))
    below = b("div", e, b("add", e, 1.0))
    above = b("div", 1.0, b("add", e, 1.0))
    return b("select", b("ge", x, 0.0), above, below)


def _tanh(b: Builder[V], x: V) -> V:
    a = b("abs", x)
    u = b("mul", x, x)
    small = b("add", b("mul", b("mul", x, u), _horner(b, _TANH, u)), x)
    e = b("exp", b("mul", a, -2.0))
    big = b("div", b("sub", 1.0, e), b("add", e, 1.0))
    signed = b("select", b("ge", x, 0.0), big, b("mul", big, -1.0))
    return b("select", b("lt", a, 0.65), small, signed)


def _erf(b: Builder[V], x: V) -> V:
    a = b("abs", x)
    u = b("mul", x, x)
    small = b("mul", _horner(b, _ERF, u), x)
    # Beyond 4.2 erf is 1 in f32; the clamp keeps the tail polynomial in its range, and lets NaN through.
    t = b("min", a, 4.2)
    q = _horner(b, _ERFCX, b("div", 1.0, b("add", b("mul", t, 0.5), 1.0)))
    tail = b("sub", 1.0, b("mul", b("exp", b("mul", b("mul", t, t), -1.0)), q))
    signed = b("select", b("ge", x, 0.0), tail, b("mul", tail, -1.0))
    return b("select", b("lt", a, 1.0), small, signed)


EXPANSIONS: dict[str, Callable[..., object]] = {
    "neg": _neg,
    "abs": _abs,
    "rsqrt": _rsqrt,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "erf": _erf,
}
