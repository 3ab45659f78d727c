"""Seeded arrays for a kernel's arguments, each in the argument's memory order."""

from __future__ import annotations

from opc.arrays import Array, empty
from opc.tensor.inputs import random_inputs
from opc.tensor.ir import Function


def arguments(function: Function, seed: int = 0, kind: str = "normal") -> dict[str, Array]:
    """An array per argument; ``kind`` as in ``opc.tensor.inputs.random_inputs``."""
    found = {}
    for argument, values in zip(function.args, random_inputs(function, seed, kind).values(), strict=True):
        array = empty(argument.tensor)
        array[...] = values
        found[argument.tensor.name] = array
    return found
