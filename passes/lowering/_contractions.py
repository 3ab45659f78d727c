"""Which kind of nest a contraction gets on a machine."""

from __future__ import annotations

from opc.machine.model import Machine
from opc.tensor.ir import Tensor
from passes.lowering._matmul import ContractionNest, operand_type
from passes.lowering._matmul_outer import OuterNest
from passes.lowering._matmul_registers import RegisterNest
from passes.lowering._matmul_spaces import SpaceNest
from passes.lowering._matmul_tiles import TileNest
from passes.tensor._contraction import Contraction
from passes.tensor._outer_products import sums_outer_products


def nest_type(c: Contraction, tensors: dict[str, Tensor], machine: Machine) -> type[ContractionNest]:
    """By how the cube gets its operands: it reads memory, is fed from there, or through the stage space."""
    if not machine.feeds(operand_type(c, tensors, machine)):
        return OuterNest if sums_outer_products(c, tensors) else RegisterNest
    direct = machine.route("copy_in", machine.roles["memory"], machine.roles["operand_b"])
    return TileNest if direct is not None else SpaceNest
