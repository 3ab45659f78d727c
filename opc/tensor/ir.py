"""Tensor IR: functions of comprehensions, the one tensor operation of opc.

A comprehension (``Op``) computes its outputs from one or more ``Piece``s. Each piece has
named parallel dimensions, dimensions reduced by the op's monoid, guards, an affine injective
output index and a scalar expression over reads at affine indices. Everything is a number
here: symbolic sizes died when the language was specialised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.dtypes import DType
from opc.tensor.tensor import Tensor as Tensor


@dataclass(frozen=True, slots=True)
class Const:
    """A literal; adapts to the type it meets (``dtype`` None) or has its own."""

    value: float | int
    dtype: DType | None = None


@dataclass(frozen=True, slots=True)
class DimValue:
    """The value of an affine form of the dimensions, as i32."""

    form: Affine


@dataclass(frozen=True, slots=True)
class Read:
    """``tensor[index]``; ``fill`` is the value where the index leaves the tensor
    (None: it provably does not).
    """

    tensor: str
    index: tuple[Affine, ...]
    fill: float | int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A scalar function of ``opc.scalar.FUNCTIONS`` applied to expressions."""

    fn: str
    args: tuple[Expr, ...]


Expr = Const | DimValue | Read | Call


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension ``0 <= name < extent``."""

    name: str
    extent: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One rectangular (guarded) part of an output.

    ``guards``: forms over parallel and reduced dims; a term exists where all are >= 0. A guard over
    parallel dims only leaves the output at its fill value; a guard over reduced dims skips terms.
    """

    dims: tuple[Dim, ...]
    index: tuple[Affine, ...]
    body: Expr
    reduce: tuple[Dim, ...] = ()
    guards: tuple[Affine, ...] = ()

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every parallel and reduced dimension."""
        return {d.name: d.extent for d in (*self.dims, *self.reduce)}


@dataclass(frozen=True, slots=True)
class Op:
    """A comprehension. ``fill`` is the value of output elements that no piece writes (None: the
    pieces cover the output). ``accumulate`` is the type reductions run in. ``group`` is set by
    ``fuse``: ops with equal groups, adjacent in the function, become one program nest.
    ``prepare`` marks ops that depend on parameters only and run once in ``prepare``.
    ``line`` is the source line for diagnostics and listings.
    """

    outputs: tuple[Tensor, ...]
    pieces: tuple[Piece, ...]
    monoid: str | None = None
    fill: float | int | None = None
    accumulate: DType | None = None
    group: str | None = None
    prepare: bool = False
    line: int = 0

    @property
    def name(self) -> str:
        return self.outputs[0].name


@dataclass(frozen=True, slots=True)
class Arg:
    """A function argument; ``kind`` is "input", "param", "inout", or "donated": an input that may be
    written over when it has been read, and holds nothing then.
    """

    tensor: Tensor
    kind: str = "input"


@dataclass(frozen=True, slots=True)
class Function:
    """A specialised kernel: arguments, results (names of op outputs), ops in order."""

    name: str
    args: tuple[Arg, ...]
    results: tuple[str, ...]
    ops: tuple[Op, ...]
    doc: str = ""
    source: str = ""  # file the kernel came from

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name: arguments, then op outputs."""
        table = {a.tensor.name: a.tensor for a in self.args}
        for op in self.ops:
            table.update((t.name, t) for t in op.outputs)
        return table

    def updated(self) -> frozenset[str]:
        """Arguments that an op writes over: equal text before and after it is not an equal value."""
        written = {t.name for op in self.ops for t in op.outputs}
        return frozenset(a.tensor.name for a in self.args if a.tensor.name in written)

    def with_ops(self, ops: tuple[Op, ...]) -> Function:
        return replace(self, ops=ops)


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node, children before parents; iterative, so deep expressions are safe."""
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded or not isinstance(node, Call):
            yield node
            continue
        stack.append((node, True))
        stack.extend((a, False) for a in reversed(node.args))


def reads(op: Op) -> Iterator[Read]:
    """Every read of every piece."""
    for piece in op.pieces:
        for node in walk(piece.body):
            if isinstance(node, Read):
                yield node


def rewrite(expr: Expr, leaf: Callable[[Expr], Expr]) -> Expr:
    """Rebuild bottom-up, applying ``leaf`` to every node after its children."""
    done: list[Expr] = []
    for node in walk(expr):
        if isinstance(node, Call):
            args = tuple(done[-len(node.args) :]) if node.args else ()
            del done[len(done) - len(node.args) :]
            node = node if args == node.args else Call(node.fn, args)
        done.append(leaf(node))
    return done[0]
