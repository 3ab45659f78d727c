"""Program IR: loops over instructions of five classes, on buffers in named spaces.

Every instruction is a tiny affine loop nest: an iteration box of named local dimensions with
constant extents, and operands accessed at affine indices of loop variables and local dimensions.
The region an operand touches is the box hull of that access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.dtypes import DType

ZERO = Affine()
BUFFER_KINDS = ("input", "param", "inout", "output", "packed", "workspace", "local")


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer of ``slots`` equal boxes in one space, row-major in ``shape``.

    Kinds other than "local" live in the memory space and outlive the program: arguments are bound
    by the caller, "packed" is written by prepare, "workspace" belongs to the caller. ``offsets``
    (bytes, one per slot) exist after plan-memory for local buffers; for "packed" and "workspace"
    they are offsets into those blobs, or, of workspace with a ``lender``, into the memory of that result, which is
    written later. Packed buffers with a lender say where the blob of a call that packs anew may begin. A "local"
    buffer is private to a core (or thread).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    space: str
    kind: str = "local"
    slots: int = 1
    offsets: tuple[int, ...] = ()
    lender: str = ""

    @property
    def elements(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return n

    @property
    def slot_bytes(self) -> int:
        return self.elements * self.dtype.bytes


@dataclass(frozen=True, slots=True)
class Access:
    """``buffer{slot}[index]``: the slot is ``slot mod buffer.slots``; the index is affine in loop
    variables and the instruction's local dimensions, one form per buffer axis.
    """

    buffer: str
    index: tuple[Affine, ...]
    slot: Affine = ZERO


@dataclass(frozen=True, slots=True)
class Imm:
    """A literal operand."""

    value: float | int


Operand = Access | Imm


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction; see ``opc.program.opcodes`` for what each opcode means.

    ``dims`` is the iteration box. ``init``: a reduction or cube instruction overwrites its
    destination when this form is 0 and accumulates otherwise (None: always accumulates).
    ``fill``: value of source elements whose index leaves the source buffer (copies only).
    ``form``: value written by ``vector.iota``, or the count already merged for ``reduce_moments``.
    ``flag``: (source pipe, destination pipe, event id) of sync instructions, (pipe, pipe, 0) of barriers;
    the id counts modulo the machine's event ids, and a barrier may name the pipe "ALL".
    ``hint``: how a copy, prefetch or product should treat caches, one of ``opcodes.HINTS``; it means nothing.
    ``stage``: pipeline stage, set by ``pipeline``. ``line``: source line.
    """

    opcode: str  # "class.operation", a key of OPCODES
    dims: tuple[tuple[str, int], ...] = ()
    dst: tuple[Access, ...] = ()
    src: tuple[Operand, ...] = ()
    init: Affine | None = None
    fill: float | int | None = None
    form: Affine | None = None
    flag: tuple[str, str, Affine] | None = None
    scale: tuple[str, ...] = ()  # forms a scale.drain applies, in order: "relu", "convert", …
    hint: str = ""
    stage: int | None = None
    chain: int = 0  # length of the addition chain a cube or reduction instruction extends
    line: int = 0

    @property
    def opcode_class(self) -> str:
        return self.opcode.split(".", 1)[0]

    @property
    def op(self) -> str:
        return self.opcode.split(".", 1)[1]

    @property
    def sources(self) -> tuple[Access, ...]:
        """Source operands that are accesses."""
        for operand in self.src:
            if isinstance(operand, Imm):
                return tuple([s for s in self.src if isinstance(s, Access)])
        return self.src  # type: ignore[return-value]  # there is no other kind of operand

    @property
    def extents(self) -> dict[str, int]:
        return dict(self.dims)


@dataclass(frozen=True, slots=True)
class Loop:
    """``loop var < extent``. A ``parallel`` loop is outermost: its iterations are independent
    and spread over cores or threads (iteration i runs on core i mod cores). Two top-level
    statements of a program are separated by a grid barrier.
    """

    var: str
    extent: int
    body: tuple[Stmt, ...]
    parallel: bool = False


Stmt = Loop | Instr


@dataclass(frozen=True, slots=True)
class Program:
    """A static program for one machine."""

    name: str
    machine: str
    buffers: tuple[Buffer, ...]
    body: tuple[Stmt, ...]

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name; KeyError if there is none."""
        for b in self.buffers:
            if b.name == name:
                return b
        raise KeyError(name)

    def table(self) -> dict[str, Buffer]:
        return {b.name: b for b in self.buffers}

    def with_body(self, body: tuple[Stmt, ...]) -> Program:
        return replace(self, body=body)


def instructions(body: tuple[Stmt, ...]) -> Iterator[tuple[Instr, tuple[Loop, ...]]]:
    """Every instruction with the loops around it, outermost first, in program order."""
    stack: list[tuple[Stmt, tuple[Loop, ...]]] = [(s, ()) for s in reversed(body)]
    while stack:
        stmt, loops = stack.pop()
        if isinstance(stmt, Instr):
            yield stmt, loops
        else:
            inside = (*loops, stmt)
            stack.extend((s, inside) for s in reversed(stmt.body))


def hull(access: Access, extents: dict[str, int]) -> tuple[tuple[Affine, int], ...]:
    """Per axis (first index as a form of the loop variables, number of indices covered)."""
    box: list[tuple[Affine, int]] = []
    for form in access.index:
        local, base = form.split(extents)
        low, high = local.interval(extents)
        box.append((base + low, high - low + 1))
    return tuple(box)


@dataclass(frozen=True, slots=True)
class Module:
    """A lowered kernel: ``prepare`` packs parameters (its body may be empty), ``run`` computes.

    Both declare the "packed" buffers they share under the same names.
    """

    prepare: Program
    run: Program

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def programs(self) -> tuple[Program, Program]:
        return self.prepare, self.run


def map_programs(ir: Module | Program, rewrite: Callable[[Program], Program]) -> Module | Program:
    """``rewrite`` applied to a program or to both of a module; the same object if nothing changed."""
    if isinstance(ir, Program):
        return rewrite(ir)
    prepare, run = (rewrite(p) for p in ir.programs)
    return ir if prepare is ir.prepare and run is ir.run else Module(prepare, run)
