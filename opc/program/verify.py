"""The invariants of program IR. ``problems`` reports every violation, not only the first.

Structure (always checked):

 1. E0550  Buffer names are unique; loop variables and dims are unique along a path and differ from
           each other; two loops side by side may share a name.
 2. E0551  A buffer's extents are at least 1, its slots at least 1, and 1 unless it is local.
 3. E0552  Loop and dim extents are at least 1; ``parallel`` loops are outermost.
 4. E0553  Operand counts are the opcode's; ``init`` only where it reduces, ``fill`` only on copies,
           ``form`` only on iota and reduce_moments, ``scale`` only on drains, ``flag`` exactly on sync,
           ``hint`` one of the opcode's.
 5. E0554  Every access names a buffer, has one index form per axis, and uses names in scope; a slot
           and ``init`` depend on loop variables only; destinations are not read-only buffers.
 6. E0555  Every access stays inside its buffer for all loop values, except sources of copies with ``fill``
           and of prefetches.
 7. E0556  A destination index is injective: in all dims, or in its own dims where the opcode reduces.
 8. E0557  A reduction starts: ``init`` can be 0, or the destination was written before; every dim of a
           cube or reducing instruction occurs in an operand.
 9. E0558  ``chain`` is at least the number of terms that sum in one destination element.
10. E0559  No two iterations of a parallel loop provably write the same element of a shared buffer.
11. E0568  A local buffer that is read is written in the same phase: a parallel loop, or statements between two.

On a machine (checked when one is given, see ``opc.program.legality``): E0560 to E0567.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from math import prod

from opc.affine import Affine
from opc.errors import Diagnostic, IRError
from opc.machine.model import Machine
from opc.program.injective import overlaps_when_shifted, proves_injective
from opc.program.ir import BUFFER_KINDS, Access, Instr, Loop, Program, Stmt, instructions
from opc.program.legality import LEVELS, machine_problems
from opc.program.memo import Memo
from opc.program.opcodes import HINTS, OPCODES
from opc.program.text import print_stmt

_SUMMING = ("cube.mma", "vector.reduce_sum", "vector.reduce_moments")


def verify(
    program: Program, machine: Machine | None = None, level: str = "legal", memo: Memo | None = None
) -> None:
    """Raise IRError with every broken invariant; see ``problems``."""
    found = problems(program, machine, level, memo)
    if found:
        raise IRError(found)


def problems(
    program: Program, machine: Machine | None = None, level: str = "legal", memo: Memo | None = None
) -> list[Diagnostic]:
    """Every broken invariant, in program order.

    ``level`` says how far the program has come: "tiled" (before legalise: routes and functions may
    be missing), "legal", or "expanded" (after expand-slots: registers and tiles have constant indices).
    ``memo`` keeps what is known of instructions from one program to the next on the same machine.
    """
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}")
    memo = memo or Memo()
    memo.start(program)
    checker = _Checker(program, memo)
    checker.buffers()
    checker.body(program.body, {}, parallel=None, depth=0)
    if not checker.found:
        checker.phases()
    found = checker.found
    if machine is not None and not found:
        found = machine_problems(program, machine, level, memo)
    return found


class _Checker:
    """Walks the program once, with the extents of the names in scope."""

    def __init__(self, program: Program, memo: Memo) -> None:
        self.program, self.memo = program, memo
        self.table = program.table()
        self.found: list[Diagnostic] = []
        self.written: set[str] = {b.name for b in program.buffers if b.kind != "local"}

    def report(self, code: str, message: str, stmt: Stmt | None = None, help: str = "") -> None:
        notes = (f"in `{print_stmt(stmt).splitlines()[0]}`",) if stmt is not None else ()
        self.found.append(Diagnostic(code, message, notes=notes, help=help))

    def buffers(self) -> None:
        seen: set[str] = set()
        for b in self.program.buffers:
            if b.name in seen:
                self.report("E0550", f"two buffers are called '{b.name}'")
            seen.add(b.name)
            if b.kind not in BUFFER_KINDS:
                self.report("E0551", f"buffer '{b.name}' has unknown kind '{b.kind}'")
            if min(b.shape, default=1) < 1:
                self.report("E0551", f"buffer '{b.name}' has an extent below 1: {list(b.shape)}")
            if b.slots < 1 or (b.slots > 1 and b.kind != "local"):
                self.report("E0551", f"buffer '{b.name}' of kind {b.kind} cannot have {b.slots} slots")

    def body(self, body: tuple[Stmt, ...], scope: dict[str, int], parallel: str | None, depth: int) -> None:
        for stmt in body:
            if isinstance(stmt, Instr):
                self.instr(stmt, scope, parallel)
                continue
            if stmt.parallel and depth:
                self.report("E0552", f"parallel loop '{stmt.var}' is not outermost", stmt)
            if stmt.extent < 1:
                self.report("E0552", f"loop '{stmt.var}' runs {stmt.extent} times", stmt)
            if stmt.var in scope:
                self.report("E0550", f"loop variable '{stmt.var}' is already in use here", stmt)
            inner = {**scope, stmt.var: max(1, stmt.extent)}
            self.body(stmt.body, inner, stmt.var if stmt.parallel else parallel, depth + 1)

    def phases(self) -> None:
        """What is on chip does not outlive a phase: the next one may run on another core."""
        whole = groupby(enumerate(self.program.body), key=lambda s: s[0] if _is_parallel(s[1]) else -1)
        local = {name for name, b in self.table.items() if b.kind == "local"}
        for _, phase in whole:
            inside = [i for i, _ in instructions(tuple(stmt for _, stmt in phase))]
            strange = local - {d.buffer for i in inside for d in i.dst}
            if strange.isdisjoint(a.buffer for i in inside for a in i.sources):
                continue
            for i in inside:
                for name in sorted({a.buffer for a in i.sources} & strange):
                    message = f"'{name}' is read, and nothing in the same phase writes it"
                    self.report("E0568", message, i, "copy into it first, in the same parallel loop")

    def instr(self, i: Instr, scope: dict[str, int], parallel: str | None) -> None:
        before = len(self.found)
        if not self.memo.knows(i, scope, parallel):
            self.afresh(i, scope, parallel)
        if len(self.found) > before or i.opcode_class == "sync":
            return
        self.memo.keep(i, scope, parallel)
        if OPCODES[i.opcode].reduces:
            self.starts(i, scope)
        self.written.update([d.buffer for d in i.dst])

    def afresh(self, i: Instr, scope: dict[str, int], parallel: str | None) -> None:
        """What depends on nothing but the instruction and the loops around it."""
        before = len(self.found)
        self.shape(i, scope)
        if len(self.found) > before or i.opcode_class == "sync":
            return
        extents = {**scope, **i.extents}
        for access in i.dst:
            self.access(i, access, scope, extents, is_source=False)
        for access in i.sources:
            self.access(i, access, scope, extents, is_source=True)
        if len(self.found) > before:
            return
        self.bounds(i, extents)
        self.destinations(i)
        self.reduction(i, scope)
        if parallel is not None:
            self.races(i, scope, parallel)

    def shape(self, i: Instr, scope: dict[str, int]) -> None:
        """Names, extents, operand counts and attributes, before any operand is looked at."""
        op = OPCODES.get(i.opcode)
        if op is None:
            self.report("E0553", f"unknown opcode '{i.opcode}'", i)
            return
        names = [n for n, _ in i.dims]
        if len(set(names)) < len(names) or not scope.keys().isdisjoint(names):
            for name in dict.fromkeys(names):
                if names.count(name) > 1 or name in scope:
                    self.report("E0550", f"dim '{name}' is already in use here", i)
        if i.dims and min([extent for _, extent in i.dims]) < 1:
            self.report("E0552", "a dim has an extent below 1", i)
        sources = op.sources + len([form for form in i.scale if form in ("scale", "shift")])
        if len(i.dst) != op.destinations or len(i.src) != sources:
            counts = f"{op.destinations} destinations and {sources} sources"
            self.report("E0553", f"{i.opcode} takes {counts}, not {len(i.dst)} and {len(i.src)}", i)
        given = (("init", i.init), ("fill", i.fill), ("form", i.form), ("flag", i.flag))
        for attribute, value in (*given, ("scale", i.scale or None)):
            if value is not None and not _takes(i, attribute):
                self.report("E0553", f"{i.opcode} has no '{attribute}'", i)
        if i.hint and i.hint not in HINTS.get(i.opcode, ()):
            self.report("E0553", f"{i.opcode} has no hint '{i.hint}'", i)
        if i.op == "iota" and i.form is None:
            self.report("E0553", "vector.iota needs a 'form'", i)
        if i.opcode_class == "sync" and i.flag is None:
            self.report("E0553", f"{i.opcode} needs a flag or a pipe", i)
        self.names_in_scope(i, scope)

    def names_in_scope(self, i: Instr, scope: dict[str, int]) -> None:
        if i.init is None and i.flag is None and i.form is None:
            return
        loop_forms = [("init", i.init), ("event id", i.flag[2] if i.flag else None)]
        if i.op == "reduce_moments":
            loop_forms.append(("form", i.form))
        for what, form in loop_forms:
            for name in sorted((form.names if form is not None else frozenset()) - scope.keys()):
                self.report("E0554", f"'{name}' in {what} is not a loop variable here", i)
        if i.op == "iota" and i.form is not None:
            for name in sorted(i.form.names - scope.keys() - i.extents.keys()):
                self.report("E0554", f"'{name}' is not in scope", i)

    def access(
        self, i: Instr, a: Access, scope: dict[str, int], extents: dict[str, int], is_source: bool
    ) -> None:
        b = self.table.get(a.buffer)
        if b is None:
            self.report("E0554", f"there is no buffer '{a.buffer}'", i)
            return
        if len(a.index) != len(b.shape):
            self.report("E0554", f"'{a.buffer}' has {len(b.shape)} axes, indexed with {len(a.index)}", i)
        unknown = [n for form in a.index for n, _ in form.terms if n not in extents]
        for name in sorted(set(unknown)):
            self.report("E0554", f"'{name}' is not in scope", i)
        if a.slot.terms:
            for name in sorted(a.slot.names - scope.keys()):
                self.report("E0554", f"'{name}' in a slot is not a loop variable here", i)
        if not is_source and b.kind in ("input", "param"):
            self.report("E0554", f"'{a.buffer}' is {b.kind}, it cannot be written", i)

    def bounds(self, i: Instr, extents: dict[str, int]) -> None:
        kept = i.fill is None and i.op != "prefetch"
        for access in (*i.dst, *(i.sources if kept else ())):
            shape = self.table[access.buffer].shape
            for axis, (form, extent) in enumerate(zip(access.index, shape, strict=True)):
                low, high = form.interval(extents)
                if low < 0 or high >= extent:
                    what = f"axis {axis} of '{access.buffer}' has {extent} elements"
                    message = f"{what}, {form} reaches {low} to {high}"
                    self.report("E0555", message, i, help="give the copy a fill, or shrink the loop")

    def destinations(self, i: Instr) -> None:
        for access in i.dst:
            dims = i.extents
            if OPCODES[i.opcode].reduces:
                names = {n for form in access.index for n, _ in form.terms}
                dims = {n: e for n, e in dims.items() if n in names}
            if not proves_injective(access.index, dims):
                self.report("E0556", f"two iterations may write the same element of '{access.buffer}'", i)

    def starts(self, i: Instr, scope: dict[str, int]) -> None:
        """A reduction overwrites its destination at some time, or continues what was written before."""
        low, high = (1, 1) if i.init is None else i.init.interval(scope)
        # Unrolled copies of a reduction have an init that is never 0: they only continue it.
        if (low > 0 or high < 0) and any(d.buffer not in self.written for d in i.dst):
            self.report("E0557", f"'{i.dst[0].buffer}' is accumulated into before it was written", i)

    def reduction(self, i: Instr, scope: dict[str, int]) -> None:
        if not OPCODES[i.opcode].reduces:
            return
        names = {n for access in (*i.dst, *i.sources) for form in access.index for n, _ in form.terms}
        for name in (n for n, e in i.dims if n not in names and e > 1):
            self.report("E0557", f"dim '{name}' occurs in no operand", i)
        if i.op == "reduce_moments" and i.form is None and i.init != Affine():
            self.report("E0557", "reduce_moments needs the count already merged as 'form'", i)
        if i.opcode in _SUMMING and i.chain < (needed := _terms(i, scope)):
            self.report("E0558", f"chain is {i.chain}, but {needed} terms sum in one element", i)

    def races(self, i: Instr, scope: dict[str, int], parallel: str) -> None:
        extents = {**scope, **i.extents}
        for access in i.dst:
            if self.table[access.buffer].kind == "local" or scope[parallel] == 1:
                continue
            if overlaps_when_shifted(access.index, parallel, extents):
                message = f"iterations of parallel '{parallel}' write the same element of '{access.buffer}'"
                self.report("E0559", message, i)


def _takes(i: Instr, attribute: str) -> bool:
    """Whether the opcode may have that attribute."""
    if attribute == "init":
        return OPCODES[i.opcode].reduces
    if attribute == "fill":
        return i.op == "copy" and i.opcode_class in ("copy_in", "copy_out")
    if attribute == "form":
        return i.op in ("iota", "reduce_moments")
    return i.opcode_class == ("scale" if attribute == "scale" else "sync")


def _terms(i: Instr, scope: Mapping[str, int]) -> int:
    """Terms that end in one destination element, as far as the dims and the init form say."""
    kept = {n for form in i.dst[0].index for n in form.names}
    over = [e for n, e in i.dims if n not in kept]
    if i.init is not None:
        over += [scope[n] for n in sorted(i.init.names) if n not in kept]
    return prod(over)


def _is_parallel(stmt: Stmt) -> bool:
    return isinstance(stmt, Loop) and stmt.parallel
