"""Program IR to listing: linear byte addresses, one generic mechanism, no operator knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from opc.affine import Affine
from opc.errors import ListingError, fail
from opc.machine.model import Machine
from opc.npu.listing import (
    ALL,
    Argument,
    Bound,
    Instruction,
    Listing,
    Loop,
    Phase,
    Placement,
    Region,
    Statement,
    Tensor,
)
from opc.npu.mnemonics import copy_mnemonic, mnemonic_of
from opc.program import ir
from opc.program.cost import window_of
from opc.program.pipes import pipe_of


def emit(program: ir.Program, machine: Machine) -> Listing:
    """The listing of a placed and synchronised program.

    Raises ListingError E0803 if a local buffer has no offsets and E0804 if no pipe runs an instruction.
    """
    return _Emitter(program, machine).listing()


class _Emitter:
    def __init__(self, program: ir.Program, machine: Machine) -> None:
        self.program, self.machine = program, machine
        self.buffers = program.table()
        self.memory = machine.roles["memory"]
        self.operands = {machine.roles.get("operand_a"), machine.roles.get("operand_b")}

    def listing(self) -> Listing:
        tensors = tuple(
            Tensor(b.name, b.dtype, b.shape, b.kind, b.offsets[0] if b.offsets else 0)
            for b in self.program.buffers
            if b.kind != "local"
        )
        return Listing(
            self.program.name,
            self.program.machine,
            tensors,
            tuple(self._placement(b) for b in self.program.buffers if b.kind == "local"),
            tuple(self._phase(s) for s in self.program.body),
        )

    def _placement(self, b: ir.Buffer) -> Placement:
        if len(b.offsets) != b.slots:
            message = f"buffer '{b.name}' in {b.space} has {b.slots} slot(s) but {len(b.offsets)} offset(s)"
            raise fail(ListingError, "E0803", message, help="run plan-memory before emitting a listing")
        return Placement(b.name, b.space, b.slot_bytes, b.offsets)

    def _phase(self, s: ir.Stmt) -> Phase:
        if isinstance(s, ir.Loop) and s.parallel:
            return Phase(s.var, s.extent, self._body(s.body, {s.var: s.extent}))
        # A bare statement runs on core 0, between two grid barriers like any other.
        return Phase("core", 1, self._body((s,), {"core": 1}))

    def _body(self, body: tuple[ir.Stmt, ...], extents: Mapping[str, int]) -> tuple[Statement, ...]:
        found: list[Statement] = []
        for s in body:
            if isinstance(s, ir.Instr):
                found.append(self._instruction(s, extents))
            else:
                found.append(Loop(s.var, s.extent, self._body(s.body, {**extents, s.var: s.extent})))
        return tuple(found)

    def _instruction(self, i: ir.Instr, extents: Mapping[str, int]) -> Instruction:
        pipe = ALL if i.flag is not None and i.flag[0] == ALL else pipe_of(i, self.buffers, self.machine)
        if not pipe:
            message = f"no pipe of {self.machine.name} runs '{i.opcode}' of line {i.line}"
            raise fail(
                ListingError, "E0804", message, help="run assign-spaces, or use a machine with a route"
            )
        dst = tuple(self._region(a, i) for a in i.dst)
        src: tuple[Argument, ...] = tuple(s if isinstance(s, ir.Imm) else self._region(s, i) for s in i.src)
        bounds = self._bounds(i, extents)
        return Instruction(
            pipe,
            self._mnemonic(i, dst, src, bounds),
            i.dims,
            dst,
            src,
            bounds,
            i.fill if bounds else None,
            i.init,
            i.form,
            i.scale,
            *self._flag(i, extents),
            i.line,
            window_of(i, self.buffers, self.machine),
        )

    def _flag(self, i: ir.Instr, extents: Mapping[str, int]) -> tuple[tuple[str, str, Affine] | None, int]:
        """The flag, and what its event id counts modulo (0 where it stays in range by itself)."""
        if i.flag is None:
            return None, 0
        source, target, event = i.flag
        ids = max(1, self.machine.event_ids)
        if event.is_const:
            return (source, target, Affine((), event.const % ids)), 0
        low, high = event.interval(extents)
        return i.flag, 0 if low >= 0 and high < ids else ids

    def _region(self, access: ir.Access, i: ir.Instr) -> Region:
        buffer = self.buffers[access.buffer]
        linear, pitch = Affine(), buffer.dtype.bytes
        for form, extent in zip(reversed(access.index), reversed(buffer.shape), strict=True):
            linear, pitch = linear + form * pitch, pitch * extent
        strides = tuple(linear.coefficient(name) for name, _ in i.dims)
        _, base = linear.split(name for name, _ in i.dims)
        if buffer.kind != "local":
            return Region(buffer.dtype, buffer.space, base, strides, buffer.name)
        if buffer.slots == 1 or access.slot.is_const:
            offset = buffer.offsets[access.slot.const % buffer.slots]
            return Region(buffer.dtype, buffer.space, base + offset, strides)
        return Region(buffer.dtype, buffer.space, base, strides, "", buffer.offsets, access.slot)

    def _bounds(self, i: ir.Instr, extents: Mapping[str, int]) -> tuple[Bound, ...]:
        if i.fill is None or not i.sources:
            return ()
        source, ranges = i.sources[0], {**extents, **i.extents}
        found = []
        for form, extent in zip(source.index, self.buffers[source.buffer].shape, strict=True):
            low, high = form.interval(ranges)
            if low < 0 or high >= extent:
                found.append(Bound(form, extent))
        return tuple(found)

    def _mnemonic(
        self, i: ir.Instr, dst: tuple[Region, ...], src: tuple[Argument, ...], bounds: tuple[Bound, ...]
    ) -> str:
        if i.opcode_class not in ("copy_in", "copy_out"):
            return mnemonic_of(i, all(s.dtype == dst[0].dtype for s in src if isinstance(s, Region)))
        source = src[0]
        assert isinstance(source, Region), "verify: a copy reads a buffer"
        operand = dst[0].space in self.operands
        window = bool(bounds) or _is_window(i.dims, source.strides, dst[0].strides)
        return copy_mnemonic(source.space, dst[0].space, operand, window)


def _is_window(dims: tuple[tuple[str, int], ...], *strides: tuple[int, ...]) -> bool:
    """Whether more than two dimensions remain where neighbours that are contiguous everywhere count once."""
    wide = [n for n, (_, extent) in enumerate(dims) if extent > 1]
    if len(wide) <= 2:
        return False
    return not all(
        all(s[outer] == s[inner] * dims[inner][1] for s in strides) for outer, inner in pairwise(wide)
    )
