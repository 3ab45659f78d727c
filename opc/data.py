"""Seeded arrays for a kernel's arguments, for ``opc run``, benchmarks and tests."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from opc.arrays import Array, empty
from opc.tensor.ir import Arg, Function, Tensor


def arguments(function: Function, seed: int = 0) -> dict[str, Array]:
    """An array per argument, reproducible from ``seed`` and the argument's name.

    Tensors of rank 2 and more hold values in [-1, 1), vectors and scalars in [0.5, 1.5): most
    kernels take variances and scales as vectors, and those are positive. Integers are small.
    """
    return {a.tensor.name: one(a, seed) for a in function.args}


def one(argument: Arg, seed: int) -> Array:
    """The array of one argument."""
    tensor = argument.tensor
    # Not hash(): Python salts it per process.
    salt = int.from_bytes(hashlib.sha256(tensor.name.encode()).digest()[:4], "little")
    random = np.random.default_rng([seed, salt])
    return fill(tensor, random)


def fill(tensor: Tensor, random: np.random.Generator) -> Array:
    """Random values of the tensor's dtype in its memory order."""
    array = empty(tensor)
    values: np.ndarray[Any, Any]
    if not tensor.dtype.is_float:
        values = random.integers(-8, 9, tensor.shape)
    elif len(tensor.shape) >= 2:
        values = random.uniform(-1.0, 1.0, tensor.shape)
    else:
        values = random.uniform(0.5, 1.5, tensor.shape)
    array[...] = values.astype(tensor.dtype.numpy)
    return array
