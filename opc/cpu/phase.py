"""One phase of a program as LLVM text: its loops, and the dispatch of every instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from opc.affine import Affine
from opc.cpu import checks, elementwise, gather, layout, mma, prefetch, reduce, tile_registers, tiles
from opc.cpu.function import Function, Index
from opc.cpu.layout import Layout, View
from opc.machine.model import Machine
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt

ARGUMENTS = ("input", "param", "inout", "output")


def arguments(program: Program) -> tuple[Buffer, ...]:
    """Buffers that the caller binds, in order of declaration."""
    return tuple(b for b in program.buffers if b.kind in ARGUMENTS)


class Phase:
    """Emits one phase into a function in which ``%a0``… are the arguments, ``%packed``, ``%workspace`` and
    ``%scratch`` the blobs; iterations ``begin`` to ``end`` of a parallel loop are this thread's. With
    ``stream``, buffers whose stores bypass the caches begin at a cache line; ``bases`` replace arguments,
    ``scratch`` that blob; ``lent`` says by lender where its memory is.
    """

    def __init__(
        self,
        f: Function,
        program: Program,
        machine: Machine,
        plan: Layout,
        stream: bool = False,
        bases: Mapping[str, str] | None = None,
        scratch: str = "%scratch",
        lent: Mapping[str, str] | None = None,
    ) -> None:
        self.program, self.machine, self.plan = program, machine, plan
        self.buffers = program.table()
        self.order = {b.name: i for i, b in enumerate(arguments(program))}
        self.f, self.stream, self.bases, self.scratch, self.lent = f, stream, bases or {}, scratch, lent or {}
        self.extents: dict[str, int] = {}
        self.registers: dict[str, str] = {}
        self.views: dict[Access, View] = {}  # of registers
        self.tile_space = tile_registers.tile_space(machine)

    def emit(self, statements: Sequence[Stmt], begin: Index, end: Index) -> None:
        """Emit the statements: one parallel loop, or any number of others."""
        found = tile_registers.assign(self.program, self.tile_space)
        self.tiles = tiles.TileUnit(self.f, found, self.f.module.emulate)

        def one(stmt: Stmt) -> None:
            if isinstance(stmt, Loop) and stmt.parallel:
                self._loop(stmt, begin, end)
            else:
                self._statement(stmt)

        self.tiles.region(statements, one)

    def _loop(self, loop: Loop, begin: Index, end: Index) -> None:
        self.extents[loop.var] = loop.extent

        def body(i: Index, _: list[str]) -> list[str]:
            self.f.bind({loop.var: i})
            outside, self.f.pinned = self.f.pinned, self.tiles.mixes(loop.body)
            self.tiles.region(loop.body, self._statement)
            self.f.pinned = outside
            return []

        outside, self.f.opaque = self.f.opaque, self.tiles.configured and not self.tiles.emulated
        self.f.loop(end, body, start=begin)
        self.f.opaque = outside
        del self.extents[loop.var]

    def _statement(self, stmt: Stmt) -> None:
        if isinstance(stmt, Loop):
            self._loop(stmt, 0, stmt.extent)
            return
        self._instruction(stmt)

    def _instruction(self, i: Instr) -> None:
        if i.opcode_class == "sync":
            return  # program order holds on one core, and phases are joined
        if i.op == "prefetch":
            prefetch.emit(self.f, i, self._view(i.sources[0]), self.machine.line_bytes)
            return
        if self._stays(i):
            # Of this phase: every version of one has registers of its own.
            same = (self, i.opcode, i.dims, i.dst, i.src, i.form, self.f.pinned)
            self.f.repeat(same, lambda: self._anew(i))
        else:
            self._anew(i)

    def _anew(self, i: Instr) -> None:
        if self.tiles.touches(i):
            self.tiles.emit(i, self._view, self._plain)
        else:
            self._plain(i, None, {})

    def _stays(self, i: Instr) -> bool:
        """Whether an instruction is the same text wherever it stands: all on registers."""
        if i.opcode_class == "cube":
            return i.init is None and all(a.buffer in self.tiles.tiles for a in (*i.dst, *i.sources))
        if i.opcode_class != "vector" or i.op.startswith("reduce_"):
            return False
        forms = [form for a in (*i.dst, *i.sources) for form in (*a.index, a.slot)]
        known = i.extents.keys()
        return all(form.names <= known for form in (*forms, i.form or Affine())) and all(
            self._in_registers(self.buffers[a.buffer]) for a in (*i.dst, *i.sources)
        )

    def _in_registers(self, b: Buffer) -> bool:
        addressable = self.machine.spaces[b.space].addressable
        return b.kind == "local" and not addressable and b.name not in self.plan.offsets

    def _plain(self, i: Instr, target: View | None, sources: dict[int, View]) -> None:
        """Emit an instruction; ``target`` and ``sources`` (by position) stand in for operands in tiles."""
        dst = (target,) if target is not None else tuple(self._view(a) for a in i.dst)
        if self.stream and i.hint == "stream" and i.opcode_class == "copy_out":
            dst = tuple(replace(v, stream=True) for v in dst)
        src = tuple(
            sources[n] if n in sources else self._view(s) if isinstance(s, Access) else s.value
            for n, s in enumerate(i.src)
        )
        f = self.f
        if i.opcode == "cube.mma":
            a, b = (s for s in src if isinstance(s, View))
            mma.emit(f, mma.Mma(i, dst[0], a, b, self._ahead(i), self.machine.line_bytes))
        elif i.op.startswith("reduce_"):
            reduce.emit(f, reduce.Reduction(i, dst, tuple(s for s in src if isinstance(s, View))))
        elif i.fill is not None and isinstance(i.src[0], Access):
            self._gather(i, dst[0], src[0])
        else:
            elementwise.emit(f, elementwise.Element(i, dst[0], src))

    def _ahead(self, i: Instr) -> int:
        """Multiply-adds that run while a line comes from afar, where a product asks for lines ahead."""
        limits = self.machine.limits
        return limits.get("far_cycles", 0) * limits.get("fma_per_cycle", 1) if i.hint == "ahead" else 0

    def _gather(self, i: Instr, dst: View, src: View | float | int) -> None:
        source = i.src[0]
        assert isinstance(source, Access)
        assert isinstance(src, View)
        found = checks.checks_of(i, source, self.buffers[source.buffer], self.extents)
        if found:
            gather.emit(self.f, checks.Gather(i, dst, src, found, self.extents))
        else:
            elementwise.emit(self.f, elementwise.Element(replace(i, fill=None), dst, (src,)))

    def _view(self, access: Access) -> View:
        b = self.buffers[access.buffer]
        if self._in_registers(b):
            if access.slot.terms:
                return self._register(b, access)
            if access not in self.views:
                self.views[access] = self._register(b, access)
            return self.views[access]
        base = {"packed": "%packed", "workspace": "%workspace", "local": self.scratch}.get(b.kind)
        if b.lender and b.kind == "workspace":
            base = self.lent[b.lender]
        base = base or self.bases.get(b.name) or f"%a{self.order[b.name]}"
        return layout.view(self.f, b, access, base, self.plan.offsets.get(b.name, ()), 0)

    def _register(self, b: Buffer, access: Access) -> View:
        vector = self.f.module.vector_bytes
        row = layout.register_row(b, vector)
        size = row * (b.elements // (b.shape[-1] if b.shape else 1)) * b.dtype.bytes
        if b.name not in self.registers:
            self.registers[b.name] = self.f.alloca("i8", size * b.slots, vector)
        offsets = tuple(size * slot for slot in range(b.slots))
        return layout.view(self.f, b, access, self.registers[b.name], offsets, row)
