"""The NPU listing: per-core code over byte addresses, all that the simulator and checker read.

A listing is a sequence of phases separated by grid barriers. A phase runs one body per core index;
iteration ``i`` of ``core c < n`` runs on core ``i mod cores``, after that core's earlier iterations and
in the same instruction stream. Loops have constant trip counts. An operand is a space, a base address in
bytes affine in the loop variables, and one byte stride per dimension of the instruction's box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from opc.affine import Affine
from opc.dtypes import DType
from opc.program.cost import Window
from opc.program.ir import Imm

ZERO = Affine()
ALL = "ALL"  # the pipe name of a barrier across every pipe


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in global memory. Kinds "packed" and "workspace" lie at ``offset`` of their shared blob,
    every other tensor is a blob of its own.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    kind: str
    offset: int = 0

    @property
    def bytes(self) -> int:
        n = self.dtype.bytes
        for extent in self.shape:
            n *= extent
        return n

    @property
    def blob(self) -> str:
        """Name of the memory that holds it."""
        return self.kind if self.kind in ("packed", "workspace") else self.name


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a local buffer lies; only messages and reports need it."""

    name: str
    space: str
    bytes: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """An operand: ``base`` (plus ``table[select mod len(table)]`` if there is a table) is the address of
    the box's first element, ``strides`` the bytes between neighbours along each dimension.
    """

    dtype: DType
    space: str
    base: Affine
    strides: tuple[int, ...]
    tensor: str = ""  # set in global memory: addresses count from the tensor's start
    table: tuple[int, ...] = ()
    select: Affine = ZERO

    def address(self, env: dict[str, int]) -> int:
        """The first element's address with every loop variable bound."""
        slot = self.table[self.select.evaluate(env) % len(self.table)] if self.table else 0
        return slot + self.base.evaluate(env)


@dataclass(frozen=True, slots=True)
class Bound:
    """Source elements are read only where ``0 <= form < extent``; elsewhere the fill value is taken."""

    form: Affine
    extent: int


Argument = Region | Imm


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction on one pipe. The meaning of each field is that of ``opc.program.ir.Instr``; an event id
    counts modulo ``modulo`` unless that is 0. ``window`` only says how slow a copy is.
    """

    pipe: str
    mnemonic: str
    dims: tuple[tuple[str, int], ...] = ()
    dst: tuple[Region, ...] = ()
    src: tuple[Argument, ...] = ()
    bounds: tuple[Bound, ...] = ()
    fill: float | int | None = None
    init: Affine | None = None
    form: Affine | None = None
    scale: tuple[str, ...] = ()
    flag: tuple[str, str, Affine] | None = None
    modulo: int = 0
    line: int = 0
    window: Window | None = None

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(e for _, e in self.dims)

    @property
    def sources(self) -> tuple[Region, ...]:
        return tuple(s for s in self.src if isinstance(s, Region))


@dataclass(frozen=True, slots=True)
class Loop:
    """``loop var < extent``."""

    var: str
    extent: int
    body: tuple[Statement, ...]


Statement = Loop | Instruction


@dataclass(frozen=True, slots=True)
class Phase:
    """``core var < extent``: what every core runs before the next grid barrier."""

    var: str
    extent: int
    body: tuple[Statement, ...]

    def iterations(self, core: int, cores: int) -> range:
        """The iterations that run on one core."""
        return range(core, self.extent, cores)


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole program for one machine."""

    name: str
    machine: str
    tensors: tuple[Tensor, ...]
    buffers: tuple[Placement, ...]
    phases: tuple[Phase, ...]

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name; KeyError if there is none."""
        for t in self.tensors:
            if t.name == name:
                return t
        raise KeyError(name)


def instructions(body: tuple[Statement, ...]) -> Iterator[tuple[Instruction, tuple[Loop, ...]]]:
    """Every instruction with the loops around it, outermost first, in text order."""
    stack: list[tuple[Statement, tuple[Loop, ...]]] = [(s, ()) for s in reversed(body)]
    while stack:
        statement, loops = stack.pop()
        if isinstance(statement, Instruction):
            yield statement, loops
        else:
            inside = (*loops, statement)
            stack.extend((s, inside) for s in reversed(statement.body))
