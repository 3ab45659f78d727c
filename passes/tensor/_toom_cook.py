"""Matrices of the Winograd minimal filters F(m, 3), and linear maps as expressions with shared parts.

``F(m, 3)`` gives m outputs of a filter of three taps from m + 2 products: with the matrices below,
``y = A^T ((G g) * (B^T d))``. They are evaluation and interpolation of polynomials at m + 1 points and infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from opc.tensor.ir import Call, Const, Expr

Matrix = tuple[tuple[Fraction, ...], ...]

TAPS = 3
_HALF = Fraction(1, 2)
# In pairs of opposite sign, which share half of their sums. For m = 4 a rounding error may grow by 484, the largest
# sum of (|A^T| (|G| |B^T|))^2, with 1/2 and 2, but by 2304 with 1 and 2, the common choice; errors on random data are
# two thirds. They also leave B^T and A^T one factor that is no power of two, so that nearly all products are exact.
_POINTS = {2: (0, 1, -1), 4: (0, _HALF, -_HALF, 2, -2)}
SIZES = tuple(_POINTS)


@dataclass(frozen=True, slots=True)
class Filter:
    """The matrices of ``F(m, 3)``: outputs (m rows), taps and inputs (m + 2 rows each)."""

    outputs: Matrix
    taps: Matrix
    inputs: Matrix


def filter_of(m: int) -> Filter:
    """``F(m, 3)`` for an ``m`` of SIZES."""
    points = [Fraction(p) for p in _POINTS[m]]
    zero, one = Fraction(0), Fraction(1)
    last = tuple(one if k == TAPS - 1 else zero for k in range(TAPS))
    taps, inputs = [], []
    for a in points:
        others = [b for b in points if b != a]
        scale = one
        for b in others:
            scale *= a - b
        sign = 1 if scale > 0 else -1
        taps.append(tuple(a**k / abs(scale) for k in range(TAPS)))
        inputs.append((*(sign * c for c in _polynomial(others)), zero))
    outputs = tuple((*(a**i for a in points), one if i == m - 1 else zero) for i in range(m))
    return Filter(outputs, (*taps, last), (*inputs, tuple(_polynomial(points))))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the monic polynomial with these roots, constant first."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [s - root * c for s, c in zip(shifted, [*found, Fraction(0)], strict=True)]
    return found


def apply(matrix: Matrix, values: Sequence[Expr]) -> list[Expr]:
    """One expression per row of ``matrix @ values``; equal parts of rows are equal expressions."""
    matrix, values = _pair_columns(matrix, list(values))
    found: dict[int, Expr] = {}
    for r, row in enumerate(matrix):
        other = next(
            (q for q in range(r + 1, len(matrix)) if q not in found and _mirrors(row, matrix[q])), None
        )
        if r in found:
            continue
        if other is None:
            found[r] = combine(row, values)
            continue
        same = [c if c == d else Fraction(0) for c, d in zip(row, matrix[other], strict=True)]
        rest = [c - s for c, s in zip(row, same, strict=True)]
        even, odd = combine(same, values), combine(rest, values)
        found[r], found[other] = Call("add", (even, odd)), Call("sub", (even, odd))
    return [found[r] for r in range(len(matrix))]


def _mirrors(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether two vectors differ by signs only, with both equal and opposite entries among them."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x or y]
    return all(abs(x) == abs(y) for x, y in pairs) and len({x == y for x, y in pairs}) == 2


def _pair_columns(matrix: Matrix, values: list[Expr]) -> tuple[Matrix, list[Expr]]:
    """Columns that mirror each other replaced by the sum and the difference of their values."""
    columns = [list(c) for c in zip(*matrix, strict=True)]
    done: set[int] = set()
    for i, left in enumerate(columns):
        j = next((j for j in range(i + 1, len(columns)) if _mirrors(left, columns[j])), None)
        if j is None or i in done or j in done:
            continue
        done |= {i, j}
        first, second = values[i], values[j]
        values[i], values[j] = Call("add", (first, second)), Call("sub", (first, second))
        equal = [x == y for x, y in zip(left, columns[j], strict=True)]
        columns[i], columns[j] = (
            [c if e is keep else Fraction(0) for c, e in zip(left, equal, strict=True)]
            for keep in (True, False)
        )
    return tuple(zip(*columns, strict=True)), values


def combine(factors: Sequence[Fraction], values: Sequence[Expr]) -> Expr:
    """``sum(factor * value)`` without the terms that are zero; a positive term first, so that no sign is left over."""
    terms = [(f, v) for f, v in zip(factors, values, strict=True) if f]
    terms.sort(key=lambda t: (t[0] < 0, abs(t[0]) != 1))
    total: Expr | None = None
    for factor, value in terms:
        term = value if abs(factor) == 1 else Call("mul", (value, Const(float(abs(factor)))))
        if total is None:
            total = term if factor > 0 else Call("neg", (term,))
        else:
            total = Call("add" if factor > 0 else "sub", (total, term))
    return Const(0.0) if total is None else total
