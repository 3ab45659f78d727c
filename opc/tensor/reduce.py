"""Reductions of values with a running error.

Terms stand on all dimensions of a block, parallel first; a reduction removes the reduced ones. The
rules: sums Σδ + L·u·Σ|t| with L the longest addition chain, whatever the order; max and min the hull
of their terms' intervals; moments after Chan, Golub and LeVeque; argmax every index in reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from opc.dtypes import DType
from opc.tensor.bound import Array
from opc.tensor.types import LIMITS
from opc.tensor.values import OWN, Mode, Value, integral, or_zero, total, wrap


@dataclass(frozen=True, slots=True)
class Terms:
    """What a reduction needs beside its terms: extents of the block, how many of them are parallel,
    the accumulation type, the chain length and where terms exist (None: everywhere).
    """

    extents: tuple[int, ...]
    parallel: int
    dtype: DType
    chain: int
    mask: Array | None
    mode: Mode

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(range(self.parallel, len(self.extents)))

    @property
    def count(self) -> int:
        return prod(self.extents[self.parallel :])

    @property
    def slack(self) -> float:
        """Relative error of a sum: its chain in the accumulation type, and the oracle's own."""
        if self.count <= 1:
            return 0.0
        first = self.chain * self.dtype.roundoff + self.count * OWN
        # The full n·u/(1 - n·u): first order alone is not enough for a million terms.
        return first / (1 - first) if first < 1 else np.inf

    def spread(self, data: Array, absent: float) -> Array:
        """Terms on their full extents with ``absent`` where there is none."""
        reduced = (1,) * self.parallel + self.extents[self.parallel :]
        if self.mask is None:
            return np.broadcast_to(data, np.broadcast_shapes(data.shape, reduced))
        wide = np.broadcast_to(data, np.broadcast_shapes(data.shape, reduced, self.mask.shape))
        return np.where(self.mask, wide, absent)


def reduce_sum(term: Value, terms: Terms) -> Value:
    """Sum of all terms."""
    wide = terms.spread(term.data, 0)
    data = wide.sum(axis=terms.axes, keepdims=True)
    if not terms.dtype.is_float:
        data = wrap(data)
    if not terms.mode.track:
        return Value(data)
    carried = None
    if term.error is not None:
        carried = terms.spread(term.error, 0.0).sum(axis=terms.axes, keepdims=True)
    if not terms.dtype.is_float or terms.slack == 0:
        return Value(data, carried)
    size = np.abs(wide).sum(axis=terms.axes, keepdims=True)
    if carried is None and exact_sum(size, (term.data,), terms.dtype):
        return Value(data)
    certain: bool | Array = False
    if not np.isfinite(size).all():
        # An infinite term decides the sum, unless finite ones overflow on the way.
        rest = np.where(np.isfinite(wide), np.abs(wide), 0.0).sum(axis=terms.axes, keepdims=True)
        certain = np.isfinite(or_zero(carried)) & (rest < terms.dtype.largest)
    return _finish_sum(data, size, carried, terms, certain)


def _finish_sum(
    data: Array, size: Array, carried: Array | None, terms: Terms, certain: bool | Array = False
) -> Value:
    """The sum with its error; ``certain`` says where a sum that is not finite must be so."""
    error = or_zero(carried) + terms.slack * (size + or_zero(carried)) + terms.count * terms.dtype.tiny
    finite = np.isfinite(data)
    error = np.where(finite & (size > terms.dtype.largest), np.inf, error)
    return Value(data, np.where(finite, error, np.where(certain, 0.0, np.inf)))


def exact_sum(size: Array, factors: tuple[Array, ...], dtype: DType) -> bool:
    """Whether no partial sum can round: integers whose magnitudes add up to what ``dtype`` holds."""
    limit = 1 / dtype.roundoff
    return bool(size.max() <= limit) and all(integral(f, limit) for f in factors)


def reduce_product(a: Value, b: Value, product: DType, terms: Terms) -> Value | None:
    """Sum of a·b as matrix products; None where it must be summed term by term.

    ``product`` is the type the multiplication is computed in.
    """
    if terms.mask is not None:
        masked = _mask_one(a, b, terms.mask)
        if masked is None:
            return None
        a, b = masked
    special = not (np.isfinite(a.data).all() and np.isfinite(b.data).all())
    if special and not _separable(a, b, terms):
        return None
    if not product.is_float:
        return _integer_product(a, b, terms)
    data = contract(a.data, b.data, terms)
    if not terms.mode.track:
        return Value(data)
    size_a, size_b = np.abs(a.data), np.abs(b.data)
    size = contract(size_a, size_b, terms)
    if a.error is None and b.error is None:
        narrow = product if product.roundoff > terms.dtype.roundoff else terms.dtype
        if exact_sum(size, (a.data, b.data), narrow):
            return Value(data)
    carried = None
    if b.error is not None:
        carried = contract(size_a, np.broadcast_to(b.error, _join(b)), terms)
    if a.error is not None:
        upper = size_b if b.error is None else size_b + b.error
        carried = total(carried, contract(np.broadcast_to(a.error, _join(a)), upper, terms))
    rounded = size * (product.roundoff + OWN) + terms.count * product.tiny
    return _finish_sum(data, size, total(carried, rounded), terms, certain=special)


def _separable(a: Value, b: Value, terms: Terms) -> bool:
    """Whether NaN and infinities among exact factors decide their sums alone: no term is masked (a zero
    times an infinity would be no zero), each product is a term (a factor added up over dims that the other lacks
    may have lost a zero that meets an infinity), and finite terms cannot overflow.
    """
    if a.error is not None or b.error is not None or terms.mask is not None:
        return False
    if any((a.data.shape[i] > 1) != (b.data.shape[i] > 1) for i in terms.axes):
        return False
    reach = [np.abs(np.where(np.isfinite(v.data), v.data, 0.0)).max() for v in (a, b)]
    return bool(reach[0] * reach[1] * terms.count < terms.dtype.largest)


def _join(value: Value) -> tuple[int, ...]:
    return np.broadcast_shapes(value.data.shape, np.shape(or_zero(value.error)))


def _mask_one(a: Value, b: Value, mask: Array) -> tuple[Value, Value] | None:
    """Put the mask into an operand that has all its dimensions."""
    for value, first in ((a, True), (b, False)):
        if np.broadcast_shapes(value.data.shape, mask.shape) == value.data.shape:
            error = None if value.error is None else np.where(mask, value.error, 0.0)
            cut = Value(np.where(mask, value.data, 0), error)
            return (cut, b) if first else (a, cut)
    return None


def _integer_product(a: Value, b: Value, terms: Terms) -> Value | None:
    if a.error is not None or b.error is not None:
        return None
    largest = float(np.abs(a.data).max()) * float(np.abs(b.data).max()) * terms.count
    if largest < 2.0**53:
        # Exact in float64, and matrix products of floats are a hundred times faster.
        data = contract(a.data.astype(np.float64), b.data.astype(np.float64), terms).astype(np.int64)
    else:
        data = contract(a.data, b.data, terms)
    return Value(wrap(data))


def contract(a: Array, b: Array, terms: Terms) -> Array:
    """``sum(a * b)`` over the reduced axes, as a batch of matrix products."""
    batch: list[int] = []
    rows: list[int] = []
    columns: list[int] = []
    shared: list[int] = []
    scale = 1
    for axis, extent in enumerate(terms.extents):
        in_a, in_b = a.shape[axis] > 1, b.shape[axis] > 1
        if axis < terms.parallel:
            group = batch if in_a and in_b else rows if in_a else columns if in_b else None
            if group is not None:
                group.append(axis)
        elif in_a and in_b:
            shared.append(axis)
        elif in_a:
            a = a.sum(axis=axis, keepdims=True)
        elif in_b:
            b = b.sum(axis=axis, keepdims=True)
        else:
            scale *= extent
    left = _matrix(a, batch, rows, shared)
    right = _matrix(b, batch, columns, shared).swapaxes(1, 2)
    product: Array = np.matmul(left, right)
    if scale != 1:
        product = product * scale
    kept = [*batch, *rows, *columns]
    result: Array = product.reshape([terms.extents[i] for i in kept])
    result = result.transpose(np.argsort(kept)) if kept else result
    return result.reshape([terms.extents[i] if i in kept else 1 for i in range(len(terms.extents))])


def _matrix(array: Array, batch: list[int], own: list[int], shared: list[int]) -> Array:
    """The array as (batch, own, shared)."""
    order = [*batch, *own, *shared]
    rest = [i for i in range(array.ndim) if i not in order]
    moved = array.transpose([*order, *rest])
    sizes = [prod(array.shape[i] for i in group) for group in (batch, own, shared)]
    return np.ascontiguousarray(moved).reshape(sizes)


def reduce_extreme(monoid: str, term: Value, terms: Terms) -> Value:
    """Largest or smallest term; NaN wins."""
    largest = monoid == "max"
    best = np.max if largest else np.min
    absent = _identity(largest, terms.dtype)
    wide = terms.spread(term.data, absent)
    data = best(wide, axis=terms.axes, keepdims=True)
    if term.error is None or not terms.mode.track:
        return Value(data)
    error = terms.spread(term.error, 0.0)
    high = best(wide + error, axis=terms.axes, keepdims=True)
    low = best(wide - error, axis=terms.axes, keepdims=True)
    spread = np.maximum(np.where(high == data, 0.0, high - data), np.where(low == data, 0.0, data - low))
    unknown = np.isinf(error).any(axis=terms.axes, keepdims=True)
    spread = np.where(
        np.isnan(spread), 0.0, spread + 2 * OWN * np.abs(np.where(np.isfinite(data), data, 0.0))
    )
    return Value(data, np.where(unknown, np.inf, spread))


def _identity(largest: bool, dtype: DType) -> float:
    if dtype.is_float:
        return -np.inf if largest else np.inf
    return LIMITS[dtype][0 if largest else 1]


def reduce_index(monoid: str, term: Value, terms: Terms) -> tuple[Value, Array | None]:
    """Row-major index of the largest or smallest term, and which indices rounding allows (on the
    parallel dimensions and one last axis; None: the index is certain).
    """
    sign = 1.0 if monoid == "argmax" else -1.0
    wide = terms.spread(term.data, 0).astype(np.float64)
    lead = wide.shape[: terms.parallel]
    flat = np.where(np.isnan(wide), np.nan, sign * wide).reshape(*lead, -1)
    exists = None
    if terms.mask is not None:
        exists = np.broadcast_to(terms.mask, wide.shape).reshape(flat.shape)
        flat = np.where(exists, flat, -np.inf)
    found = np.argmax(flat, axis=-1)
    if exists is not None:
        # A missing term never wins, not even against -inf.
        first = np.argmax(exists, axis=-1)
        hit = np.take_along_axis(exists, found[..., None], axis=-1)[..., 0]
        found = np.where(hit, found, first)
    data = found.astype(np.int64).reshape((*lead, *(1,) * len(terms.axes)))
    if term.error is None or not terms.mode.track:
        return Value(data), None
    error = np.broadcast_to(terms.spread(term.error, 0.0), wide.shape).reshape(flat.shape)
    floor = np.max(np.where(np.isnan(flat), np.inf, flat - error), axis=-1, keepdims=True)
    allowed = (flat + error >= floor) | np.isinf(error)
    if exists is not None:
        allowed &= exists
    np.put_along_axis(allowed, found[..., None], True, axis=-1)
    if not (allowed.sum(axis=-1) > 1).any():
        return Value(data), None
    distance = np.abs(np.arange(flat.shape[-1]) - found[..., None])
    reach = np.where(allowed, distance, 0).max(axis=-1).astype(np.float64)
    return Value(data, reach.reshape(data.shape)), allowed


def reduce_moments(term: Value, terms: Terms) -> tuple[Value, Value]:
    """Mean and sum of squared deviations M2, whatever the tree of Chan's merges.

    A merge adds u·|mean| (and a few u times its deviations) to the error of the mean, which later merges
    only average: the error is at most the average depth of a leaf, min(L, (n + 1)/2), times that. A merge
    of n1 and n2 terms whose means are off by e changes its d²·n1·n2/(n1 + n2) by 2·d·e·n1·n2/(n1 + n2), all
    of them by 2·√(M2·S) with S = Σ e²·n1·n2/(n1 + n2), which is at most n³/12 and L²·n·min(L, log2 n) times
    (u·|mean|)². Errors of the terms themselves change M2 by 2·√(M2·Σδ²).
    """
    axes = terms.axes
    wide = terms.spread(term.data, 0.0)
    there = terms.spread(np.ones((1,) * len(terms.extents)), 0.0)
    n = np.maximum(there.sum(axis=axes, keepdims=True), 1.0)
    mean = wide.sum(axis=axes, keepdims=True) / n
    apart = np.where(there > 0, np.abs(wide - mean), 0.0)
    squares = (apart * apart).sum(axis=axes, keepdims=True)
    if not terms.mode.track:
        return Value(mean), Value(squares)
    chain = min(terms.chain, terms.count) + 2.0
    depth = min(chain, (terms.count + 3) / 2)
    u = terms.dtype.roundoff + OWN
    carried = largest = noise = np.zeros(())
    if term.error is not None:
        error = terms.spread(term.error, 0.0)
        carried = error.sum(axis=axes, keepdims=True) / n
        largest = error.max(axis=axes, keepdims=True)
        noise = (error * error).sum(axis=axes, keepdims=True)

    def averaged(size: Array) -> Array:
        high = size.max(axis=axes, keepdims=True) + largest
        result: Array = np.minimum(chain * (size.sum(axis=axes, keepdims=True) / n + carried), depth * high)
        return result

    tiny = terms.count * terms.dtype.tiny
    mean_error = carried + np.where(n > 1, u * (averaged(np.abs(wide)) + 8 * averaged(apart)) + tiny, 0.0)
    step = u * (
        np.abs(wide).max(axis=axes, keepdims=True) + 8 * apart.max(axis=axes, keepdims=True) + 9 * largest
    )
    levels = np.minimum(chain, np.log2(n) + 2)
    shift = step * np.minimum((n + 4) ** 1.5 / np.sqrt(12), chain * np.sqrt(n * levels))
    square_error = 2 * np.sqrt(squares) * (shift + np.sqrt(noise)) + 2 * (shift * shift + noise)
    square_error = np.where(n > 1, square_error + (2 * chain + 8) * u * squares + tiny, 0.0)
    nan: Array = np.asarray(np.isnan(wide).any(axis=axes, keepdims=True))
    never: Array = np.zeros(nan.shape, dtype=bool)
    return _moment(mean, mean_error, nan, terms.dtype), _moment(squares, square_error, never, terms.dtype)


def _moment(data: Array, error: Array, certain: Array, dtype: DType) -> Value:
    """A moment that is not finite, or may overflow, depends on how it is computed unless ``certain``."""
    known = np.isfinite(data) & (np.abs(data) + error <= dtype.largest)
    bound = np.where(known, error, np.where(certain, 0.0, np.inf))
    return Value(data, bound if bound.any() else None)
