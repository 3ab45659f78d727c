"""Seeded arrays for a kernel's arguments, each in the argument's memory order."""

from __future__ import annotations

import numpy as np

from opc.arrays import Array, empty
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import evaluate
from opc.tensor.ir import Function
from opc.tensor.saved import Half


def arguments(
    function: Function, seed: int = 0, kind: str = "normal", half: Half | None = None
) -> dict[str, Array]:
    """An array per argument; ``kind`` as in ``opc.tensor.inputs.random_inputs``.

    The backward kernel of a pair is given what its forward kernel saves for the same seed, and random gradients.
    """
    values = random_inputs(function, seed, kind)
    if half is not None and not half.is_forward:
        values |= _saved(half, seed, kind)
    found = {}
    for argument in function.args:
        found[argument.tensor.name] = array = empty(argument.tensor)
        with np.errstate(over="ignore"):
            array[...] = values[argument.tensor.name]
    return found


def _saved(half: Half, seed: int, kind: str) -> dict[str, Array]:
    inputs = random_inputs(half.forward, seed, kind)
    with np.errstate(all="ignore"):
        made = {**inputs, **evaluate(half.forward, inputs)}
    return {name: made[name] for name in half.saved.names}
