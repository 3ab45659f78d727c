"""Linear combinations of an operand's channels, which the cube makes as products with diagonal matrices.

``x * A + z * B + C``, with A, B and C by channel, is what ``x`` gives times the matrix that has A on its diagonal,
added to the same of ``z`` and to a row of ones times C. Coefficients are of the type that the cube multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Call, Const, Expr, Op, Read, Tensor
from passes.tensor._algebra import expr_dims, expr_type
from passes.tensor._contraction import Contraction

Tensors = Mapping[str, Tensor]
Term = tuple[Read, Expr | None]  # None: the value itself


@dataclass(frozen=True, slots=True)
class Linear:
    """``node``: the sum of ``terms``, values times their coefficients, and of ``shift`` (None: nothing), all of whose
    coefficients vary along ``channel`` only.
    """

    node: Expr
    terms: tuple[Term, ...]
    shift: Expr | None
    channel: str

    @property
    def products(self) -> int:
        """Products with a diagonal matrix."""
        return len(self.terms)


def linear_of(op: Op, c: Contraction, tensors: Tensors, machine: Machine) -> Linear | None:
    """The linear combination of values in the cube's type that an op makes ``c``'s operand of, if all of its values
    enter there, and channels are whole blocks of the cube's.
    """
    piece, out = op.pieces[0], op.outputs[0]
    _, n0, k0 = machine.cube_shape.get(out.dtype, (1, 1, 1))
    wide = machine.accumulators.get(out.dtype)
    if wide is None or not wide.is_float or not machine.feeds(out.dtype) or n0 != k0:
        return None
    channels = _channels(op, c)
    if len(channels) != 1 or piece.extents[channels[0]] % n0:
        return None
    return _Finder(channels[0], out.dtype, wide, tensors, frozenset(piece.index)).find(piece.body)


def halved(found: Linear, dtype: DType, tensors: Tensors) -> Expr:
    """The combination with each coefficient as the sum of two of the cube's type, in the order in which it adds up."""
    terms: list[Expr] = [] if found.shift is None else [found.shift]
    for read, factor in found.terms:
        if factor is None or _narrow(factor, dtype, tensors):
            parts: list[Expr] = [Const(1.0, dtype) if factor is None else factor]
        else:
            high = Call(dtype.value, (factor,))
            parts = [high, Call(dtype.value, (Call("sub", (factor, high)),))]
        terms += [Call("mul", (read, part)) for part in parts]
    total = terms[0]
    for term in terms[1:]:
        total = Call("add", (total, term))
    return total


def is_halved(found: Linear, dtype: DType, tensors: Tensors) -> bool:
    """Whether all coefficients are of the cube's type."""
    return all(f is not None and _narrow(f, dtype, tensors) for _, f in found.terms)


def _narrow(expr: Expr, dtype: DType, tensors: Tensors) -> bool:
    """Whether an expression has values of a type narrower than what it is computed in."""
    if isinstance(expr, Call):
        return expr.fn == dtype.value
    if isinstance(expr, Const):
        return expr.dtype is dtype
    return isinstance(expr, Read) and tensors[expr.tensor].dtype is dtype


def _channels(op: Op, c: Contraction) -> list[str]:
    """Dims of an op along the axes that only reduced dims of the contraction index."""
    reduced = {d.name for d in c.k}
    pairs = zip(op.pieces[0].index, c.a.index, strict=True)
    names = [f.as_var() for f, used in pairs if used.names and used.names <= reduced and used.as_var()]
    return [n for n in names if n and op.pieces[0].extents[n] > 1]


@dataclass(frozen=True)
class _Finder:
    channel: str
    dtype: DType
    wide: DType
    tensors: Tensors
    place: frozenset[Affine]  # the index of the result

    def find(self, body: Expr) -> Linear | None:
        """The largest combination, if nothing else of the body varies."""
        found = self._linear(body)
        if found is not None and found[0]:
            terms, shift = found
            return Linear(body, tuple(terms), shift, self.channel) if _worth(terms, shift) else None
        if not isinstance(body, Call):
            return None
        moving = [a for a in body.args if expr_dims(a) - {self.channel}]
        return self.find(moving[0]) if len(moving) == 1 else None

    def _linear(self, expr: Expr) -> tuple[list[Term], Expr | None] | None:
        """(terms, shift) of an expression; None if it is something else."""
        if expr_dims(expr) <= {self.channel}:
            return ([], expr)
        if isinstance(expr, Read):
            return ([(expr, None)], None) if self._value(expr) else None
        if not isinstance(expr, Call):
            return None
        if FUNCTIONS[expr.fn].kind == "cast":
            return self._linear(expr.args[0]) if expr.fn == self.wide.value else None
        if expr.fn not in ("add", "sub", "mul") or expr_type(expr, self.tensors) is not self.wide:
            return None
        left, right = (self._linear(a) for a in expr.args)
        if left is None or right is None:
            return None
        if expr.fn != "mul":
            other = right if expr.fn == "add" else _times(right, Const(-1.0))
            return left[0] + other[0], _sum(left[1], other[1])
        if left[0] and right[0]:
            return None
        value, factor = (left, right[1]) if left[0] else (right, left[1])
        return None if factor is None else _times(value, factor)

    def _value(self, read: Read) -> bool:
        """Whether a read has one value of the cube's type for each result."""
        return (
            self.tensors[read.tensor].dtype is self.dtype
            and read.fill is None
            and len(read.index) == len(self.place)
            and all(f in self.place for f in read.index)
        )


def _worth(terms: list[Term], shift: Expr | None) -> bool:
    """Whether there is anything to compute."""
    return len(terms) > 1 or shift is not None or terms[0][1] is not None


def _times(value: tuple[list[Term], Expr | None], factor: Expr) -> tuple[list[Term], Expr | None]:
    def scaled(e: Expr | None) -> Expr:
        return factor if e is None else Call("mul", (e, factor))

    terms, shift = value
    return [(read, scaled(f)) for read, f in terms], None if shift is None else scaled(shift)


def _sum(a: Expr | None, b: Expr | None) -> Expr | None:
    return b if a is None else a if b is None else Call("add", (a, b))


def kept(expr: Expr, found: Linear) -> Iterator[Call]:
    """The nodes of an expression that are left to the vector unit, and that vary from value to value."""
    if expr == found.node or not expr_dims(expr) - {found.channel}:
        return
    if isinstance(expr, Call):
        yield expr
        for a in expr.args:
            yield from kept(a, found)


def replaced(body: Expr, node: Expr, other: Expr) -> Expr:
    """The body with one of its nodes exchanged."""
    if body == node:
        return other
    return (
        Call(body.fn, tuple(replaced(a, node, other) for a in body.args)) if isinstance(body, Call) else body
    )
