"""Gradients of tensors, op by op from the results back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

from opc.affine import Affine
from opc.dtypes import DType
from opc.scalar import FUNCTIONS
from opc.tensor.ir import Arg, Call, Const, Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor
from opc.tensor.types import expression_type
from passes.tensor._algebra import expr_reads, fresh, skips_terms, substitute
from passes.tensor._derivatives import Term, collected, derivatives, expression
from passes.tensor._parts import (
    Part,
    canonical_dims,
    element,
    everywhere,
    filled,
    merged,
    parts,
    plain,
    total,
)
from passes.tensor._shifts import cancels


class Adjoint:
    """Gradients of a function's float results by its tensors. ``ops`` compute them, ``winners`` are further ops of
    the function that they read.
    """

    def __init__(self, function: Function, wrt: Collection[str]) -> None:
        self.function, self.wrt = function, wrt
        self.tensors = dict(function.tensors())
        self.makers = {t.name: op for op in function.ops for t in op.outputs}
        self.updated = {a.tensor.name for a in function.args if a.kind == "inout"}
        self.flows = _flows(function, wrt, self.updated)
        self.parts: dict[str, list[Part]] = {}
        self.gradients: dict[str, str] = {}
        self.masked: dict[str, Term] = {}
        self.args: list[Arg] = []
        self.ops: list[Op] = []
        self.winners: list[Op] = []
        self.line = 0

    def run(self) -> None:
        """Walk from the results to the arguments."""
        for name in self.function.results:
            tensor = self.tensors[name]
            if name in self.updated or not tensor.dtype.is_float:
                continue
            gradient = self._declare(tensor, f"d_{name}")
            self.args.append(Arg(gradient))
            whole = Read(gradient.name, element(len(tensor.shape)))
            self._add(name, Part((everywhere(tensor, whole),)))
        for op in reversed(self.function.ops):
            if any(t.name in self.flows and t.name in self.parts for t in op.outputs):
                self.line = op.line
                self._op(op)
        self.line = 0
        for name in self.wrt:
            self._settle(self.tensors[name], result=True)

    def _declare(self, like: Tensor, name: str, dtype: DType | None = None) -> Tensor:
        tensor = replace(like, name=fresh(name, self.tensors), dtype=dtype or like.dtype)
        self.tensors[tensor.name] = tensor
        return tensor

    def _add(self, name: str, part: Part) -> None:
        self.parts.setdefault(name, []).append(part)

    # One op.

    def _op(self, op: Op) -> None:
        for tensor, scale in zip(op.outputs, _scales(op), strict=True):
            if tensor.name in self.parts:
                self._settle(tensor, scale)
        winner = (
            self._winner(op) if op.monoid in ("max", "min") and any(p.reduce for p in op.pieces) else None
        )
        for piece in op.pieces:
            found = self._terms_of_reads(op, piece, self._seeds(op, piece, winner))
            seen = self._seen_through(op, piece)
            through = self._terms_of_reads(op, piece, seen)
            for read, terms in found.items():
                made = list(parts(read, through[read], piece, self.tensors)) if through else []
                if not made or not all(plain(part, self.tensors[read.tensor]) for part in made):
                    made = list(parts(read, terms, piece, self.tensors))
                for part in made:
                    self._add(read.tensor, part)

    def _seen_through(self, op: Op, piece: Piece) -> list[Term]:
        """What the gradient of the op is by another one, if that is remembered."""
        known = self.masked.get(op.name)
        return [] if known is None else [known.map(lambda e: _at(e, piece.index))]

    def _terms_of_reads(self, op: Op, piece: Piece, seeds: list[Term]) -> dict[Read, list[Term]]:
        """The derivatives of a piece by each of its reads, times the gradients of the op in ``seeds``."""
        found: dict[Read, list[Term]] = {}
        stored = Read(op.name, piece.index) if op.monoid is None else None
        for seed in seeds:
            flowing = derivatives(piece.body, seed, self.flows.__contains__, stored, op.outputs[0].dtype)
            for read, term in flowing:
                found.setdefault(read, []).append(term)
        return {read: collected(terms) for read, terms in found.items()}

    def _seeds(self, op: Op, piece: Piece, winner: str | None) -> list[Term]:
        """The gradient of the op by its body, as terms."""
        incoming = [
            Term((Read(self.gradients[t.name], piece.index),)) if t.name in self.gradients else None
            for t in op.outputs
        ]
        if op.monoid == "moments":
            return self._moments(op, piece, *incoming)
        (term,) = incoming
        assert term is not None, "an op is visited when its output has a gradient"
        if winner is None or not piece.reduce:
            return [term]
        place = DimValue(row_major(piece.reduce))
        return [term.where(Call("eq", (place, Read(winner, piece.index))))]

    def _moments(self, op: Op, piece: Piece, mean: Term | None, squares: Term | None) -> list[Term]:
        """The mean moves by 1/n of a term's change, the sum of squares by twice the term's deviation: ``_scales``."""
        found = []
        if mean is not None:
            found.append(mean if _terms(op) else mean.over(Read(self._count(op), piece.index)))
        if squares is not None:
            found.append(squares.times(Call("sub", (piece.body, Read(op.name, piece.index)))))
        return found

    def _count(self, op: Op) -> str:
        """A tensor with the number of terms behind each mean."""
        kind = op.accumulate or DType.F32
        count = self._declare(op.outputs[0], f"n_{op.name}", kind)
        pieces = tuple(replace(p, body=Const(1.0)) for p in op.pieces)
        self.ops.append(
            replace(
                op,
                outputs=(count,),
                pieces=pieces,
                monoid="sum",
                accumulate=kind,
                fill=None if op.fill is None else 0.0,
            )
        )
        return count.name

    def _winner(self, op: Op) -> str:
        """An op of the function beside ``op`` with the index of the term that it took."""
        index = self._declare(op.outputs[0], f"{op.name}_winner", DType.I32)
        monoid = "arg" + str(op.monoid)
        fill = None if op.fill is None else 0
        self.winners.append(replace(op, outputs=(index,), monoid=monoid, fill=fill))
        return index.name

    # One gradient.

    def _settle(self, tensor: Tensor, scale: float = 1.0, result: bool = False) -> None:
        """Add up the gradient of ``tensor``, times ``scale``."""
        found = merged(self.parts.get(tensor.name, []))
        single = found[0] if len(found) == 1 and scale == 1.0 else None
        dtype = self._gradient_type(tensor)
        if single is not None and not result and tensor.name in self.function.results:
            (read,) = expr_reads(single.pieces[0].body)
            if self.tensors[read.tensor].dtype is dtype:
                self.gradients[tensor.name] = read.tensor
                return
        out = self._declare(tensor, f"d_{tensor.name}", dtype)
        self.gradients[tensor.name] = out.name
        if single is not None and single.outer is None and not plain(single, tensor):
            self.ops.append(self._made(out, single.pieces))
            return
        body = total([self._on_elements(part, tensor) for part in found] or [Const(0.0)])
        if single is not None and not result and self._is_only_here(single, tensor):
            self._see_through(body, tensor, out)
        body = body if scale == 1.0 else Call("mul", (body, Const(scale)))
        self.ops.append(Op((out,), (everywhere(tensor, body),), line=self.line))

    def _is_only_here(self, part: Part, tensor: Tensor) -> bool:
        others = [q for name, found in self.parts.items() if name != tensor.name for q in found]
        return part.outer is None and all(part.pieces != other.pieces for other in others)

    def _see_through(self, body: Expr, tensor: Tensor, out: Tensor) -> None:
        """Remember a gradient that is another one under a condition: pointwise work does better to read that one
        again than to have this one stored, and sums may still read this one, which then stays near.
        """
        if self.makers[tensor.name].monoid is not None or not isinstance(body, Call) or body.fn != "select":
            return
        _, yes, no = body.args
        value = yes if no == Const(0.0) else no
        if (
            isinstance(value, Read)
            and Const(0.0) in (yes, no)
            and self.tensors[value.tensor].dtype is out.dtype
        ):
            self.masked[tensor.name] = Term((body,))

    def _on_elements(self, part: Part, tensor: Tensor) -> Expr:
        """The part as an expression over the canonical dimensions; sums become ops of their own."""
        if plain(part, tensor):
            return substitute(part.pieces[0].body, canonical_dims(part.pieces[0]))
        made = self._declare(tensor, f"d_{tensor.name}_part", self._computed(part.pieces))
        self.ops.append(self._made(made, part.pieces))
        read = Read(made.name, element(len(tensor.shape)))
        if part.outer is None:
            return read
        return expression(replace(part.outer, factors=(read, *part.outer.factors)))

    def _made(self, out: Tensor, pieces: tuple[Piece, ...]) -> Op:
        """An op of these pieces; elements that none of them writes are 0."""
        sums = any(p.reduce for p in pieces)
        accumulate = self._computed(pieces) if sums else None
        return filled(Op((out,), pieces, "sum" if sums else None, None, accumulate, line=self.line))

    def _computed(self, pieces: tuple[Piece, ...]) -> DType:
        """The type that the pieces compute in."""
        kinds = [expression_type(p.body, self.tensors, DType.F32) for p in pieces]
        return DType.F64 if DType.F64 in kinds else DType.F32

    def _gradient_type(self, tensor: Tensor) -> DType:
        """The type of the tensor; for a sum of products the one of its factors, because its gradient becomes a factor
        beside them; for a rounded copy the one of what was copied, whose gradient it is.
        """
        op = self.makers.get(tensor.name)
        if op is None:
            return tensor.dtype
        if op.monoid is None:
            copied = {_copied_type(p.body, self.tensors) for p in op.pieces}
            return DType.F32 if copied == {DType.F32} and tensor.dtype.compute is DType.F32 else tensor.dtype
        if op.monoid != "sum":
            return tensor.dtype
        factors = {f for p in op.pieces for f in _factor_types(p.body, self.tensors)}
        (only, *rest) = factors
        return tensor.dtype if rest or only is None else only


def _at(expr: Expr, index: tuple[Affine, ...]) -> Expr:
    """An expression over the canonical dimensions, at an index."""
    return substitute(expr, {f"i{axis}": form for axis, form in enumerate(index)})


def _scales(op: Op) -> tuple[float, ...]:
    """Constants that go into the gradients of an op's outputs, which have fewer elements than its terms."""
    if op.monoid != "moments":
        return (1.0,)
    terms = _terms(op)
    return (1 / terms if terms else 1.0, 2.0)


def _terms(op: Op) -> int | None:
    """How many terms each element of a reduction has; None if they differ."""
    counts = {prod(d.extent for d in p.reduce) for p in op.pieces}
    return counts.pop() if len(counts) == 1 and not skips_terms(op) else None


def _factor_types(body: Expr, tensors: Mapping[str, Tensor]) -> list[DType | None]:
    """The float types of the reads that ``body`` is the product of; None for anything else."""
    if not isinstance(body, Call) or body.fn != "mul":
        return [None]
    return [_copied_type(factor, tensors) for factor in body.args]


def _copied_type(expr: Expr, tensors: Mapping[str, Tensor]) -> DType | None:
    """The float type of a read, perhaps under casts; None for anything else."""
    while isinstance(expr, Call) and FUNCTIONS[expr.fn].kind == "cast":
        expr = expr.args[0]
    dtype = tensors[expr.tensor].dtype if isinstance(expr, Read) else None
    return dtype if dtype is not None and dtype.is_float else None


def _flows(function: Function, wrt: Collection[str], updated: Collection[str]) -> set[str]:
    """Float tensors that depend on ``wrt``; what an update in place takes in does not come out again, and a maximum
    that cancels out, as that of a softmax does, is a constant.
    """
    found = set(wrt)
    for op in function.ops:
        if op.monoid in ("argmax", "argmin") or op.name in updated:
            continue
        if op.monoid in ("max", "min") and cancels(function, op.name):
            continue
        if any(r.tensor in found for p in op.pieces for r in expr_reads(p.body)):
            found.update(t.name for t in op.outputs if t.dtype.is_float)
    return found


def row_major(dims: tuple[Dim, ...]) -> Affine:
    """Number of a point of a box, last dimension fastest."""
    form = Affine()
    for d in dims:
        form = form * d.extent + Affine.var(d.name)
    return form
