"""Long reductions in two steps, so that threads share the work and parts are made where their terms are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.pipeline import Context
from opc.tensor.ir import Call, Const, Dim, Expr, Function, Op, Piece, Read, Tensor, reads
from opc.tensor.roles import MERGED, is_contraction
from passes.tensor._algebra import apply_to_piece, expr_reads, fresh, is_pointwise, is_total, substitute

# Terms of a part: few enough to stay near while every reduction of a group goes over them, and enough for parts to
# be few beside their terms.
_MOST = 128
_LEAST = 16
_MUCH = 8  # times as long where nothing else will do
_PARTS = 4  # fewer are not worth a second step


@dataclass(frozen=True)
class SplitReductions:
    """A reduction of columns that lie side by side in memory, over many rows, becomes parts of up to 128 rows, and
    a reduction of the parts. Parts depend on the extents alone, so results do on neither threads nor plans.

    Parts of ``moments`` have equal counts n. Their means are averaged as differences from the first, which loses
    no digits where the mean is large, and the sum of squares is that of the parts and n times the squared distances of
    their means (Chan's rule for all parts at once). Where a part is a piece of one dim of the op that makes the terms,
    that op gets two dims in its place, so that parts may be made where their terms are.

    Machines whose vector unit has a memory of its own tile reductions by themselves.

    Before:
        func v1 total {
          arg x: f32[512,8] input
          op s: f32[8] sum accumulate f32 line 1 {
            piece c<8 reduce n<512 at c = x[n, c]
          }
          return s
        }
    After:
        func v1 total {
          arg x: f32[512,8] input
          op s.part: f32[4,8] sum accumulate f32 line 1 {
            piece n<4, c<8 reduce n_2<128 at n, c = x[n*128 + n_2, c]
          }
          op s: f32[8] sum accumulate f32 line 1 {
            piece c<8 reduce n<4 at c = s.part[n, c]
          }
          return s
        }
    """

    name: ClassVar[str] = "split-reductions"
    level: ClassVar[str] = "tensor"

    enabled: bool = True

    def run(self, ir: Function, context: Context) -> Function:
        if not self.enabled or context.machine.role("vector").addressable:
            return ir
        tensors = ir.tensors()
        ops: list[Op] = []
        cut: dict[
            str, tuple[int, int]
        ] = {}  # tensor -> the axis along which parts are pieces, and their length
        for op in ir.ops:
            split = _split_of(op, tensors)
            ops += [op] if split is None else split.ops()
            if split is not None:
                cut.update(split.pieces())
        changed = tuple(_rows_apart(op, cut) for op in ops)
        return ir if changed == ir.ops else ir.with_ops(changed)


@dataclass(frozen=True)
class _Split:
    """``outside``: dims over which parts are numbered, ``inside``: those of a part's terms. ``piece`` is the op's, with
    a dim that is cut replaced by two; ``size``: terms of a part along that dim (0: none is cut).
    """

    op: Op
    piece: Piece
    outside: tuple[Dim, ...]
    inside: tuple[Dim, ...]
    dim: str
    size: int

    def pieces(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Tensors that are read in pieces along one axis."""
        for read in reads(self.op) if self.size else ():
            for axis, form in enumerate(read.index):
                if form.as_var() == self.dim:
                    yield read.tensor, (axis, self.size)

    def ops(self) -> list[Op]:
        """Parts, then what is made of them."""
        op, dtype = self.op, self.op.accumulate or self.op.outputs[0].dtype.compute
        parts = [
            Tensor(f"{t.name}.part", dtype, (*(d.extent for d in self.outside), *t.shape)) for t in op.outputs
        ]
        place = (*(Affine.var(d.name) for d in self.outside), *self.piece.index)
        own = replace(self.piece, dims=(*self.outside, *self.piece.dims), reduce=self.inside, index=place)
        first = replace(op, outputs=tuple(parts), pieces=(own,), accumulate=dtype)
        found = [Read(t.name, place) for t in parts]
        return [first, *(self._moments(*found) if op.monoid == "moments" else [self._over(found[0])])]

    def _over(self, body: Expr, output: Tensor | None = None) -> Op:
        """All parts together."""
        monoid = "sum" if self.op.monoid == "moments" else self.op.monoid
        outputs = self.op.outputs if output is None else (output,)
        whole = replace(self.piece, reduce=self.outside, body=body)
        return replace(self.op, outputs=outputs, pieces=(whole,), monoid=monoid, accumulate=self._dtype)

    def _moments(self, means: Read, squares: Read) -> Iterator[Op]:
        (mean, m2), count = self.op.outputs, prod(d.extent for d in self.inside)
        first = replace(means, index=(*(Affine() for _ in self.outside), *self.piece.index))
        moved = Tensor(f"{mean.name}.moved", self._dtype, mean.shape)
        yield self._over(_call("sub", means, first), moved)
        share = 1.0 / prod(d.extent for d in self.outside)
        middle = _call("add", _call("mul", Read(moved.name, self.piece.index), Const(share)), first)
        point = replace(self.piece, reduce=(), body=middle)
        yield replace(self.op, outputs=(mean,), pieces=(point,), monoid=None, accumulate=None)
        apart = _call("sub", means, Read(mean.name, self.piece.index))
        yield self._over(
            _call("add", squares, _call("mul", _call("mul", apart, apart), Const(float(count)))), m2
        )

    @property
    def _dtype(self) -> DType:
        return self.op.accumulate or self.op.outputs[0].dtype.compute


def _split_of(op: Op, tensors: Mapping[str, Tensor]) -> _Split | None:
    """How a reduction is split, if it is one of columns and long enough."""
    if op.monoid not in MERGED or not is_total(op) or is_contraction(op) or op.prepare:
        return None
    piece = op.pieces[0]
    if piece.guards or not _columns(piece, tensors):
        return None
    order = sorted(piece.reduce, key=lambda d: -_step(d, piece, tensors))
    whole: list[Dim] = []
    while order and prod(d.extent for d in whole) * order[-1].extent <= _MOST:
        whole.insert(0, order.pop())
    if prod(d.extent for d in order) < _PARTS:
        return None
    if prod(d.extent for d in whole) >= _LEAST:
        return _Split(op, piece, tuple(order), tuple(whole), "", 0)
    return _cut(op, order, whole) or _uncut(op, order, whole)


def _uncut(op: Op, order: list[Dim], whole: list[Dim]) -> _Split | None:
    """Parts that take all of the innermost dim that is too long, where it does not divide."""
    outside, inside = order[:-1], (order[-1], *whole)
    fits = prod(d.extent for d in inside) <= _MOST * _MUCH and prod(d.extent for d in outside) >= _PARTS
    return _Split(op, op.pieces[0], tuple(outside), inside, "", 0) if fits else None


def _cut(op: Op, order: list[Dim], whole: list[Dim]) -> _Split | None:
    """Parts that are pieces of the innermost dim that is too long for one."""
    piece, dim = op.pieces[0], order[-1]
    most = _MOST // prod(d.extent for d in whole)
    size = max(n for n in range(1, most + 1) if dim.extent % n == 0)
    if size * prod(d.extent for d in whole) < _LEAST:
        return None
    taken = {d.name for d in (*piece.dims, *piece.reduce)}
    inner = Dim(fresh(dim.name, taken), size)
    outer = Dim(dim.name, dim.extent // size)
    values = {dim.name: Affine.var(outer.name, size) + Affine.var(inner.name)}
    moved = replace(piece, body=substitute(piece.body, values))
    return _Split(op, moved, (*order[:-1], outer), (inner, *whole), dim.name, size)


def _columns(piece: Piece, tensors: Mapping[str, Tensor]) -> bool:
    """Whether neighbours in memory belong to different results, in all that has more than one row."""
    kept = {d.name for d in piece.dims if d.extent > 1}
    reduced = {d.name for d in piece.reduce}
    found = [r for r in expr_reads(piece.body) if any(f.names & reduced for f in r.index)]
    last = [r.index[tensors[r.tensor].memory_order[-1]].names for r in found]
    return bool(found) and all(names & kept and not names & reduced for names in last)


def _step(dim: Dim, piece: Piece, tensors: Mapping[str, Tensor]) -> int:
    """The largest distance in memory between neighbours along a dim."""
    steps = [0]
    for read in expr_reads(piece.body):
        step, total = 1, 0
        for axis in reversed(tensors[read.tensor].memory_order):
            total += abs(read.index[axis].coefficient(dim.name)) * step
            step *= tensors[read.tensor].shape[axis]
        steps.append(total)
    return max(steps)


def _rows_apart(op: Op, cut: Mapping[str, tuple[int, int]]) -> Op:
    """An op over two dims where its result is read in pieces along an axis that one dim writes."""
    makes_terms = is_contraction(op) or is_pointwise(op)
    if op.outputs[0].name not in cut or not makes_terms or not is_total(op):
        return op
    piece, (axis, size) = op.pieces[0], cut[op.outputs[0].name]
    name = piece.index[axis].as_var()
    if name is None or piece.extents[name] != op.outputs[0].shape[axis]:
        return op
    inner = Dim(fresh(name, {d.name for d in (*piece.dims, *piece.reduce)}), size)
    outer = Dim(name, piece.extents[name] // size)
    values = {name: Affine.var(outer.name, size) + Affine.var(inner.name)}
    dims: Sequence[Dim] = [x for d in piece.dims for x in ((outer, inner) if d.name == name else (d,))]
    return replace(op, pieces=(apply_to_piece(piece, values, tuple(dims)),))


def _call(fn: str, *args: Expr) -> Call:
    return Call(fn, args)
