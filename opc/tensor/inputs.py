"""Seeded argument arrays of several kinds, for tests and for ``opc run``.

What must be positive is: a tensor that is read under a square root or logarithm (through sums and
products), or divides, and one called ``var`` or ``variance`` (perhaps with a prefix or suffix).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import numpy as np

from opc.dtypes import DType
from opc.tensor.bound import Array
from opc.tensor.ir import Call, Expr, Function, Read, Tensor

_VARIANCE = re.compile(r"(.*[_.])?(var|variance)([_.0-9].*)?\Z")
_CARRY = ("add", "mul", "max", "div", "f32", "f64", "f16", "bf16")  # positive operands, positive result


def random_inputs(f: Function, seed: int = 0, kind: str = "normal") -> dict[str, Array]:
    """An array in its dtype for every argument; the same for the same seed and name.

    Kinds: ``normal`` (standard normal; integers in -8..8), ``constant`` (one value per tensor),
    ``integer`` (whole numbers in -3..3, exact in every dtype), ``shifted`` (a large mean, where variances
    cancel), ``adversarial`` (all magnitudes, signed zeros, subnormals, near-cancelling pairs, largest
    numbers), ``special`` (normal with NaN and infinities).
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}")
    positive = positives(f)
    found = {}
    for arg in f.args:
        t = arg.tensor
        random = np.random.default_rng([seed, zlib.crc32(t.name.encode())])
        values = KINDS[kind](t, random) if t.dtype.is_float else _whole(t, random, kind)
        if t.name in positive:
            values = np.abs(values)
            values = np.where(values == 0, 1, values)
            if kind == "normal":
                values = values + 0.5
        with np.errstate(over="ignore"):
            found[t.name] = np.asarray(values, dtype=np.float64).astype(t.dtype.numpy)
    return found


def positives(f: Function) -> set[str]:
    """Arguments that the function needs positive."""
    found = {a.tensor.name for a in f.args if _VARIANCE.match(a.tensor.name)}
    for op in f.ops:
        for piece in op.pieces:
            found |= _needed(piece.body)
    return found


def _needed(body: Expr) -> set[str]:
    """Tensors read where a root, a logarithm or a divisor needs a positive value."""
    found: set[str] = set()
    stack: list[tuple[Expr, bool]] = [(body, False)]
    while stack:
        node, inside = stack.pop()
        if isinstance(node, Read) and inside:
            found.add(node.tensor)
        if isinstance(node, Call):
            roots = node.fn in ("sqrt", "rsqrt", "log")
            for i, arg in enumerate(node.args):
                divisor = node.fn == "div" and i == 1
                stack.append((arg, roots or divisor or (inside and node.fn in _CARRY)))
    return found


def _whole(t: Tensor, random: np.random.Generator, kind: str) -> Array:
    if kind == "constant":
        return np.full(t.shape, random.integers(-4, 5))
    if kind == "adversarial":
        low, high = (-128, 127) if t.dtype is DType.I8 else (-(2**31), 2**31 - 1)
        return random.choice([low, low + 1, -1, 0, 1, 3, high - 1, high], size=t.shape)
    reach = 3 if kind == "integer" else 8
    return random.integers(-reach, reach + 1, t.shape)


def _normal(t: Tensor, random: np.random.Generator) -> Array:
    return random.standard_normal(t.shape)


def _constant(t: Tensor, random: np.random.Generator) -> Array:
    return np.full(t.shape, random.uniform(0.1, 3.0) * random.choice([-1, 1]))


def _integer(t: Tensor, random: np.random.Generator) -> Array:
    return random.integers(-3, 4, t.shape).astype(np.float64)


def _shifted(t: Tensor, random: np.random.Generator) -> Array:
    mean = 100.0 if t.dtype in (DType.F16, DType.BF16) else 1e4
    return mean + random.standard_normal(t.shape)


def _adversarial(t: Tensor, random: np.random.Generator) -> Array:
    """Any magnitude the dtype has, though mostly ones whose products stay in range."""
    reach = 4 if t.dtype is DType.F16 else 12
    values: Array = random.standard_normal(t.shape) * 10.0 ** random.integers(-reach, reach // 3 + 1, t.shape)
    flat = values.reshape(-1)
    # Neighbours that nearly cancel.
    flat[1::2] = np.where(random.random(flat[1::2].shape) < 0.5, -flat[: len(flat) // 2 * 2 : 2], flat[1::2])
    special = random.random(flat.shape)
    flat[special < 0.10] = 0.0
    flat[special < 0.05] = -0.0
    flat[special > 0.95] = t.dtype.tiny * 0.75
    flat[special > 0.995] = t.dtype.largest
    return values


def _special(t: Tensor, random: np.random.Generator) -> Array:
    values: Array = random.standard_normal(t.shape)
    chance = random.random(t.shape)
    values = np.where(chance < 0.04, np.nan, values)
    values = np.where((chance > 0.04) & (chance < 0.08), np.inf, values)
    return np.where(chance > 0.96, -np.inf, values)


KINDS: dict[str, Callable[[Tensor, np.random.Generator], Array]] = {
    "normal": _normal,
    "constant": _constant,
    "integer": _integer,
    "shifted": _shifted,
    "adversarial": _adversarial,
    "special": _special,
}
