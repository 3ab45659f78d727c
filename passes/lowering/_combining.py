"""Room and time that the cube takes to make linear combinations of an operand's channels while that is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from opc.dtypes import DType
from opc.machine.model import Machine
from opc.program.cost import cube_cost, transfer_cost
from passes.lowering._plan import Combined

_SLOTS = 2  # of what a part needs: one is worked on while another comes in


@dataclass(frozen=True)
class Combining:
    """Of parts of ``combined``, whose factors and values are of type ``operand``; ``None``: nothing is combined."""

    combined: Combined | None
    operand: DType
    machine: Machine

    def room(self, role: str) -> int:
        """Bytes of a memory that it takes."""
        return self._rooms().get(role, 0) if self.combined is not None else 0

    def _rooms(self) -> dict[str, int]:
        c, size = self._found, self.operand.bytes
        side = self.machine.cube_shape[self.operand][1]
        part, each = c.elements * size, c.matrices * side * size
        ones = c.shift * part
        return {
            "operand_a": part * _SLOTS + ones,
            "operand_b": each * c.at_once * _SLOTS,
            "stage": part * _SLOTS + ones + each * c.channels,
            "accumulator": c.elements * self.machine.accumulators[self.operand].bytes * _SLOTS,
        }

    def work(self, elements: float) -> Iterator[tuple[str, float]]:
        """What the cube and the pipes beside it do to make so many elements."""
        if self.combined is None:
            return
        c, size, machine = self._found, self.operand.bytes, self.machine
        m0, side, _ = machine.cube_shape[self.operand]
        parts, rows = elements / c.elements, c.elements / c.at_once
        blocks = rows / m0 * c.at_once / side * c.matrices
        products = c.products * c.at_once // side + c.shift
        yield machine.cube_pipe, parts * cube_cost(blocks, machine, products).occupancy
        for opcode_class, source, target, moved in (
            ("copy_in", "stage", "operand_a", c.elements),
            ("copy_in", "stage", "operand_b", c.matrices * c.at_once * side),
            ("copy_out", "vector", "stage", c.elements),
        ):
            route = machine.route(opcode_class, machine.roles[source], machine.roles[target])
            if route is not None:
                yield route.pipe, parts * transfer_cost(route, moved * size).occupancy

    @property
    def _found(self) -> Combined:
        assert self.combined is not None
        return self.combined
