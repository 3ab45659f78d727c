"""Long reductions in two steps, so that threads share the work and parts are made where their terms are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.machine.model import Machine
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
_ROUNDS = 4  # parts of each core, at most


@dataclass(frozen=True)
class SplitReductions:
    """A reduction of columns that lie side by side in memory, over many rows, becomes parts of up to 128 rows, and
    a reduction of the parts. Parts depend on the extents alone, so results do on neither threads nor plans.

    Parts of ``moments`` have equal counts n. Their means are averaged as differences from the first, which loses
    no digits where the mean is large, and the sum of squares is that of the parts and n times the squared distances of
    their means (Chan's rule for all parts at once). Where a part is a piece of one dim of the op that makes the terms,
    that op gets two dims in its place, so that parts may be made where their terms are.

    Where the vector unit has a memory of its own, reductions are tiled later, and parts are for cores: there are about
    as many as cores, if columns alone would give each core so few that transfers of them take longer by more than the
    second step does. Sums of a product's results stay whole, because the product's tiles can make them.

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
        if not self.enabled:
            return ir
        machine, tensors = context.machine, ir.tensors()
        products = {t.name for op in ir.ops if is_contraction(op) for t in op.outputs}
        ops: list[Op] = []
        cut: dict[
            str, tuple[int, int]
        ] = {}  # tensor -> the axis along which parts are pieces, and their length
        for op in ir.ops:
            split = _split_of(op, tensors, machine, products)
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


def _split_of(op: Op, tensors: Mapping[str, Tensor], machine: Machine, products: set[str]) -> _Split | None:
    """How a reduction is split, if it is one of columns and long enough."""
    if op.monoid not in MERGED or not is_total(op) or is_contraction(op) or op.prepare:
        return None
    piece = op.pieces[0]
    if piece.guards or not _columns(piece, tensors):
        return None
    order = sorted(piece.reduce, key=lambda d: -_step(d, piece, tensors))
    if machine.role("vector").addressable:
        return None if products & {r.tensor for r in reads(op)} else _for_cores(op, order, tensors, machine)
    whole: list[Dim] = []
    while order and prod(d.extent for d in whole) * order[-1].extent <= _MOST:
        whole.insert(0, order.pop())
    if prod(d.extent for d in order) < _PARTS:
        return None
    if prod(d.extent for d in whole) >= _LEAST:
        return _Split(op, piece, tuple(order), tuple(whole), "", 0)
    return _cut(op, order, whole) or _uncut(op, order, whole)


def _for_cores(op: Op, order: list[Dim], tensors: Mapping[str, Tensor], machine: Machine) -> _Split | None:
    """Parts of rows for cores, where those make up for the second step. ``order``: slowest in memory first."""
    piece = op.pieces[0]
    terms, columns = prod(d.extent for d in order), prod(d.extent for d in piece.dims)
    over = {d.name for d in order}
    long = [r.tensor for r in expr_reads(piece.body) if any(f.names & over for f in r.index)]
    size = max(tensors[name].dtype.bytes for name in long)
    gm, near = machine.roles["memory"], machine.roles["vector"]
    there, back = machine.route("copy_in", gm, near), machine.route("copy_out", near, gm)
    if there is None or back is None or machine.cores < _PARTS:
        return None
    # A core has whole columns, each row of which is charged a burst; or all columns of its share of the rows.
    apart = terms * max(there.burst, -(-columns // machine.cores) * size)
    saved = (apart - terms * columns * size / machine.cores) / there.bandwidth
    if saved < 2 * (there.latency + back.latency):
        return None
    outside: list[Dim] = []
    for at, d in enumerate(order):
        parts = prod(x.extent for x in outside)
        if parts * d.extent > machine.cores:
            count = _count(parts, d.extent, machine.cores)
            inside = order[at + 1 :]
            if count == d.extent:
                return _Split(op, piece, (*outside, d), tuple(inside), "", 0) if inside else None
            return _pieces(op, d, d.extent // count, outside, inside)
        outside.append(d)
        if parts * d.extent == machine.cores and at + 1 < len(order):
            return _Split(op, piece, tuple(outside), tuple(order[at + 1 :]), "", 0)
    return None


def _count(parts: int, extent: int, cores: int) -> int:
    """Into how many pieces an axis is best cut if there are ``parts`` already: cores wait least, then fewest."""
    counts = [n for n in range(1, extent + 1) if extent % n == 0 and parts * n <= _ROUNDS * cores]
    return min(counts, key=lambda n: (-(-parts * n // cores) / (parts * n), n))


def _pieces(op: Op, dim: Dim, size: int, outside: Sequence[Dim], inside: Sequence[Dim]) -> _Split | None:
    """Parts that are pieces of one dim."""
    piece = op.pieces[0]
    if size == dim.extent:
        return _Split(op, piece, tuple(outside), (dim, *inside), "", 0) if outside else None
    inner = Dim(fresh(dim.name, {d.name for d in (*piece.dims, *piece.reduce)}), size)
    outer = Dim(dim.name, dim.extent // size)
    values = {dim.name: Affine.var(outer.name, size) + Affine.var(inner.name)}
    moved = replace(piece, body=substitute(piece.body, values))
    return _Split(op, moved, (*outside, outer), (inner, *inside), dim.name, size)


def _uncut(op: Op, order: list[Dim], whole: list[Dim]) -> _Split | None:
    """Parts that take all of the innermost dim that is too long, where it does not divide."""
    outside, inside = order[:-1], (order[-1], *whole)
    fits = prod(d.extent for d in inside) <= _MOST * _MUCH and prod(d.extent for d in outside) >= _PARTS
    return _Split(op, op.pieces[0], tuple(outside), inside, "", 0) if fits else None


def _cut(op: Op, order: list[Dim], whole: list[Dim]) -> _Split | None:
    """Parts that are pieces of the innermost dim that is too long for one."""
    dim = order[-1]
    most = _MOST // prod(d.extent for d in whole)
    size = max(n for n in range(1, most + 1) if dim.extent % n == 0)
    if size * prod(d.extent for d in whole) < _LEAST:
        return None
    return _pieces(op, dim, size, order[:-1], whole)


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
