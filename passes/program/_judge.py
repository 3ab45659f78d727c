"""What an order is worth with the flags and barriers that it will get."""

from __future__ import annotations

from opc.machine.model import Machine
from opc.program.ir import Loop, Program, Stmt
from opc.program.playback import Played, playback
from opc.program.unroll import length
from passes.program.insert_sync import synchronised

LONGEST = 8_000  # executed instructions; a longer loop is not played


def judged(stmt: Stmt, program: Program, machine: Machine) -> Played | None:
    """One core's run of a top-level loop of ``program``, synchronised; None where that is not worth its time."""
    if machine.sync != "flags" or not isinstance(stmt, Loop) or length(stmt.body) > LONGEST:
        return None
    return playback(synchronised(stmt, program, machine), program, machine)
