"""What verification found of instructions, kept from one program of a pipeline to the next.

Most passes move instructions and change few. An instruction that comes again, as the same object, in loops of
the same names and extents, among buffers of the same shapes, needs no second look.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from opc.program.ir import Instr, Program


@dataclass(slots=True)
class _Entry:
    """``levels``: those of the machine's rules that the instruction is known to keep."""

    instr: Instr  # held, so that its id stays its own
    scope: dict[str, int]
    parallel: str | None
    levels: set[str] = field(default_factory=set)


class Memo:
    """Sound instructions, of one machine and of one set of buffers at a time."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._buffers: tuple[object, ...] = ()

    def start(self, program: Program) -> None:
        """Forget everything unless the program's buffers are those of the last one, offsets apart."""
        buffers = tuple((b.name, b.dtype, b.shape, b.space, b.kind, b.slots) for b in program.buffers)
        if buffers != self._buffers:
            self._entries, self._buffers = {}, buffers

    def knows(self, instr: Instr, scope: dict[str, int], parallel: str | None) -> bool:
        """Whether the instruction was sound with those names in scope."""
        entry = self._entries.get(id(instr))
        return entry is not None and entry.parallel == parallel and entry.scope == scope

    def keep(self, instr: Instr, scope: dict[str, int], parallel: str | None) -> None:
        """The instruction is sound."""
        if not self.knows(instr, scope, parallel):
            self._entries[id(instr)] = _Entry(instr, scope, parallel)

    def legal(self, instr: Instr, level: str) -> bool:
        """Whether a machine is known to allow an instruction that is sound."""
        entry = self._entries.get(id(instr))
        return entry is not None and level in entry.levels

    def allow(self, instr: Instr, level: str) -> None:
        """The machine allows the instruction."""
        if id(instr) in self._entries:
            self._entries[id(instr)].levels.add(level)
