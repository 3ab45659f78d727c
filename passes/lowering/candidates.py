"""Plans of a function worth building and timing: the model's choice and its closest rivals."""

from __future__ import annotations

from opc.machine.model import Machine
from opc.tensor.ir import Function
from passes.lowering._knobs import Knobs
from passes.lowering.tile import Lowering


def candidates(function: Function, machine: Machine, limit: int = 8) -> tuple[str, ...]:
    """At most ``limit`` values of the tile pass's ``plans``, best estimate first; the first is "".

    ``function`` is what the tensor pipeline made. Each differs from the first in one contraction, and all
    add the terms of an element in the same order.
    """
    nests = Lowering(function, machine, False).contractions()
    found = [""]
    rivals = [nest.alternatives() for nest in nests]
    for rank in range(max(map(len, rivals), default=0)):
        for i, knobs in enumerate(rivals):
            if rank < len(knobs):
                plans = [knobs[rank] if j == i else Knobs() for j in range(len(nests))]
                found.append(";".join(map(str, plans)))
    return tuple(dict.fromkeys(found))[:limit]
