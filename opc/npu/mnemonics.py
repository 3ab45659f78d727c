"""Assembler names of program opcodes and back: one table, no operator knowledge."""

from __future__ import annotations

from opc.program.ir import Imm, Instr
from opc.program.opcodes import OPCODES

_NAMES = {
    "cube.mma": "mmad",
    "scale.drain": "drain",
    "sync.set_flag": "set_flag",
    "sync.wait_flag": "wait_flag",
    "sync.barrier": "pipe_barrier",
    "vector.copy": "vcopy",
    "vector.fma": "vmadd",
    "vector.iota": "vci",
    "vector.log": "vln",
    "vector.select": "vsel",
    "vector.reduce_sum": "vcadd",
    "vector.reduce_max": "vcmax",
    "vector.reduce_min": "vcmin",
    "vector.reduce_argmax": "vcargmax",
    "vector.reduce_argmin": "vcargmin",
    "vector.reduce_moments": "vcmoments",
    **{f"vector.{op}": f"vcmp_{op}" for op in ("lt", "le", "gt", "ge", "eq", "ne")},
}
_WITH_SCALAR = {"vector.add": "vadds", "vector.mul": "vmuls", "vector.max": "vmaxs", "vector.min": "vmins"}
COPY = "copy"


def _name(opcode: str) -> str:
    return _NAMES.get(opcode) or f"v{opcode.removeprefix('vector.')}"


def _table() -> dict[str, str]:
    back = {_name(opcode): opcode for opcode in OPCODES if not opcode.startswith("copy_")}
    back |= {mnemonic: opcode for opcode, mnemonic in _WITH_SCALAR.items()}
    return back | {"vconv": "vector.copy", "vdup": "vector.copy", "load2d": COPY, "load3d": COPY}


OPCODE_OF: dict[str, str] = _table()


def opcode_of(mnemonic: str) -> str | None:
    """The program opcode that a mnemonic means ("copy" for both directions); None if unknown."""
    return COPY if mnemonic.startswith("copy_") else OPCODE_OF.get(mnemonic)


def mnemonic_of(instr: Instr, same_type: bool) -> str:
    """The name of a vector, cube, scale or sync instruction. ``same_type``: no conversion."""
    if instr.opcode == "vector.copy":
        return "vdup" if isinstance(instr.src[0], Imm) else "vcopy" if same_type else "vconv"
    if instr.opcode in _WITH_SCALAR and any(isinstance(s, Imm) for s in instr.src):
        return _WITH_SCALAR[instr.opcode]
    return _name(instr.opcode)


def copy_mnemonic(source: str, target: str, operand: bool, window: bool) -> str:
    """The name of a copy between two spaces. A load into a cube operand is load2d where the source is a
    matrix and load3d where a ``window`` slides over it.
    """
    if operand:
        return "load3d" if window else "load2d"
    return f"copy_{source}_to_{target}"
