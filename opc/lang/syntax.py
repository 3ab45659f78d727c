"""The syntax tree of a ``.k`` file: immutable nodes, each with the place it came from.

Named tuples, not dataclasses: creating two dozen frozen dataclasses would take 25 ms of every start.
"""

from __future__ import annotations

from typing import NamedTuple

from opc.errors import Span


class Number(NamedTuple):
    """A literal; ``int`` when it is written without point and exponent."""

    value: int | float
    span: Span


class Name(NamedTuple):
    """A dimension, size, attribute, or (as an argument of a kernel) a tensor."""

    name: str
    span: Span


class Negate(NamedTuple):
    """``-operand``."""

    operand: Expr
    span: Span


class Binary(NamedTuple):
    """``left op right``; comparisons are binary too. ``span`` covers both sides."""

    op: str
    left: Expr
    right: Expr
    span: Span


class Read(NamedTuple):
    """``tensor[indices] else fill``."""

    tensor: str
    indices: tuple[Expr, ...]
    fill: Expr | None
    span: Span


class Dim(NamedTuple):
    """``name`` or ``name < extent`` in a domain or a reduction."""

    name: str
    extent: Expr | None
    span: Span


class Reduction(NamedTuple):
    """``monoid[dims](body)``."""

    monoid: str
    dims: tuple[Dim, ...]
    body: Expr
    span: Span


class UnknownReduction(NamedTuple):
    """``name[...](body)`` with a name that is no reduction; kept for a good message."""

    name: str
    span: Span


class NameList(NamedTuple):
    """``[a, b]``, the value of ``wrt=``."""

    names: tuple[Name, ...]
    span: Span


class Argument(NamedTuple):
    """A positional argument (``keyword`` None) or ``keyword=value``."""

    keyword: str | None
    value: Expr | NameList
    span: Span


class Call(NamedTuple):
    """``function(args)``: a scalar function, a cast, or a kernel on whole tensors."""

    function: str
    args: tuple[Argument, ...]
    span: Span


Expr = Number | Name | Negate | Binary | Read | Reduction | UnknownReduction | Call


class Param(NamedTuple):
    """A declared name of a kernel. ``kind``: "input", "param", "inout", "attribute" or "result".

    ``span`` is the name; an attribute has no ``shape``.
    """

    kind: str
    name: str
    type: str
    shape: tuple[Expr, ...] | None
    default: Expr | None
    span: Span
    type_span: Span


class Let(NamedTuple):
    """``let name = value``: a computed size."""

    name: str
    value: Expr
    span: Span


class Require(NamedTuple):
    """``require condition "text"``."""

    condition: Expr
    text: str
    span: Span


class Entry(NamedTuple):
    """One ``name = value`` of an ``example`` clause."""

    name: str
    value: Expr
    span: Span


class Example(NamedTuple):
    """``example N = 1, C = 64``."""

    entries: tuple[Entry, ...]
    span: Span


class Target(NamedTuple):
    """What a clause writes: ``name[indices]``, or a bare ``name`` for a kernel's result."""

    name: str
    indices: tuple[Expr, ...] | None
    span: Span


class Assign(NamedTuple):
    """``targets = value for domain``."""

    targets: tuple[Target, ...]
    value: Expr
    domain: tuple[Dim, ...]
    span: Span


Clause = Let | Require | Example | Assign


class Kernel(NamedTuple):
    """A kernel; ``span`` is its name."""

    name: str
    params: tuple[Param, ...]
    results: tuple[Param, ...]
    doc: str
    clauses: tuple[Clause, ...]
    span: Span

    @property
    def tensors(self) -> tuple[Param, ...]:
        """The tensor parameters, in order."""
        return tuple(p for p in self.params if p.shape is not None)

    @property
    def attributes(self) -> tuple[Param, ...]:
        """The attributes, in order."""
        return tuple(p for p in self.params if p.shape is None)

    @property
    def lets(self) -> tuple[Let, ...]:
        """The computed sizes, in order."""
        return tuple(c for c in self.clauses if isinstance(c, Let))

    @property
    def example(self) -> dict[str, Entry]:
        """Entries of the ``example`` clauses by name."""
        clauses = (c for c in self.clauses if isinstance(c, Example))
        return {entry.name: entry for clause in clauses for entry in clause.entries}


class Derived(NamedTuple):
    """``kernel name = call``, as in ``kernel g = grad(f, wrt=[x])``."""

    name: str
    call: Call
    span: Span


class Use(NamedTuple):
    """``use "path"``."""

    path: str
    span: Span


Declaration = Use | Kernel | Derived


class File(NamedTuple):
    """A parsed file: its name for messages, its text, its declarations in order."""

    name: str
    text: str
    declarations: tuple[Declaration, ...]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels that are written out, in order."""
        return tuple(d for d in self.declarations if isinstance(d, Kernel))

    @property
    def derived(self) -> tuple[Derived, ...]:
        """The kernels that are derived from others, in order."""
        return tuple(d for d in self.declarations if isinstance(d, Derived))

    @property
    def uses(self) -> tuple[Use, ...]:
        """The ``use`` declarations, in order."""
        return tuple(d for d in self.declarations if isinstance(d, Use))
