"""Exchange sums over windows of three taps for sums of fewer products, under a numerics licence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.dtypes import DType
from opc.pipeline import FAST, Context
from opc.tensor.ir import Call, Dim, Expr, Function, Op, Piece, Read, Tensor, reads, rewrite
from passes.tensor._algebra import apply_to_piece, fresh, is_pointwise, parameters, substitute
from passes.tensor._contraction import Contraction, classify_contraction
from passes.tensor._toom_cook import TAPS, Matrix, apply, filter_of
from passes.tensor._winograd_cost import Sizes, best_tile

Index = tuple[Affine, ...]


@dataclass(frozen=True)
class Winograd:
    """Rewrite convolutions of 3x3 (or 3) taps and steps of 1 by Winograd's minimal filters F(m x m, 3x3).

    Licensed by ``numerics="fast"`` only. What is looked for is a sum over channels and over one or two windows
    ``r<3`` of ``a[.., p + r + const, ..] * b``, b a parameter, in a type that is computed in as it is stored. A
    cost model over the machine's rates decides between m = 2, m = 4 and no rewrite; ``tile`` overrides it.

    The filter becomes ``U = G b G^T`` in prepare. At run time tiles of (m+2)x(m+2) inputs become ``V = B^T d B``;
    for each point of a tile a contraction over channels gives M; ``A^T M A`` are m x m outputs, and what follows
    element by element is put into the same op. A transform is one comprehension per window, whose pieces are the
    rows of a constant matrix unrolled to sums; what two rows have in common is the same expression in both. Tiles
    that reach past the edge read the fill there, and their surplus is not written.

    Exact arithmetic gives the same values. Rounding differs: the error of an output depends on the largest values
    of its whole tile, not only on the terms of its own sum; its bound is the running error of the rewritten IR.
    To first order that is ``(C + c) u |A^T| (|U| |V|) |A|`` for C channels and the few roundings c of the
    transforms. On values of one size it is up to 64 (m = 2) or 484 (m = 4) times the direct form's bound; on
    N(0, 1) data the error itself was 1 to 3 times the direct form's. An infinity or NaN spoils its tiles.

    Before:
            func v1 line {
          arg x: f32[10,8] input
          arg w: f32[16,8,3] param
          op y: f32[8,16] sum accumulate f32 {
            piece q<8, k<16 reduce c<8, s<3 at q, k = mul(x[q + s, c], w[k, c, s])
          }
          return y
        }
    After:
            func v1 line {
          arg x: f32[10,8] input
          arg w: f32[16,8,3] param
          op y_u: f32[4,8,16] prepare {
            piece c<8, k<16 at 0, c, k = w[k, c, 0]
            piece c<8, k<16 at 1, c, k = add(add(mul(w[k, c, 0], 0.5), mul(w[k, c, 2], 0.5)), mul(w[k, c, 1], 0.5))
            piece c<8, k<16 at 2, c, k = sub(add(mul(w[k, c, 0], 0.5), mul(w[k, c, 2], 0.5)), mul(w[k, c, 1], 0.5))
            piece c<8, k<16 at 3, c, k = w[k, c, 2]
          }
          op y_v: f32[4,4,8] {
            piece q_t<4, c<8 at 0, q_t, c = sub(x[q_t*2, c], x[q_t*2 + 2, c])
            piece q_t<4, c<8 at 1, q_t, c = add(x[q_t*2 + 2, c], x[q_t*2 + 1, c])
            piece q_t<4, c<8 at 2, q_t, c = sub(x[q_t*2 + 2, c], x[q_t*2 + 1, c])
            piece q_t<4, c<8 at 3, q_t, c = sub(x[q_t*2 + 3, c], x[q_t*2 + 1, c])
          }
          op y_m: f32[4,4,16] sum accumulate f32 {
            piece q_f<4, t<4, k<16 reduce c<8 at q_f, t, k = mul(y_v[q_f, t, c], y_u[q_f, c, k])
          }
          op y: f32[8,16] {
            piece q_t<4, k<16 at q_t*2, k = add(y_m[0, q_t, k], add(y_m[1, q_t, k], y_m[2, q_t, k]))
            piece q_t<4, k<16 at q_t*2 + 1, k = add(sub(y_m[1, q_t, k], y_m[2, q_t, k]), y_m[3, q_t, k])
          }
          return y
        }
    """

    name: ClassVar[str] = "winograd"
    level: ClassVar[str] = "tensor"

    tile: int = 0  # m; 0: by cost

    def run(self, ir: Function, context: Context) -> Function:
        """The function with every convolution rewritten where that is licensed and pays."""
        if context.numerics != FAST:
            return ir
        ops: list[Op] = []
        taken = set(ir.tensors())
        for op in ir.ops:
            found = _recognise(op, ir)
            m = 0
            if found is not None and not context.machine.feeds(found.dtype):
                m = self.tile or best_tile(found.sizes(), context.machine)
            ops += _Rewrite(found, ir, m, taken).ops() if found is not None and m else [op]
        return ir if tuple(ops) == ir.ops else ir.with_ops(tuple(_absorb(ops, ir)))


@dataclass(frozen=True, slots=True)
class Window:
    """A parallel dimension and the reduced one that it slides with, on one axis of the rows' operand."""

    out: Dim
    tap: Dim


@dataclass(frozen=True)
class Windowed:
    """A contraction with windows of three taps."""

    op: Op
    c: Contraction
    windows: tuple[Window, ...]
    dtype: DType

    @property
    def others(self) -> tuple[Dim, ...]:
        """Row dimensions without a window: images of a batch."""
        mine = {w.out for w in self.windows}
        return tuple(d for d in self.c.m if d not in mine)

    @property
    def channels(self) -> tuple[Dim, ...]:
        taps = {w.tap for w in self.windows}
        return tuple(d for d in self.c.k if d not in taps)

    def sizes(self) -> Sizes:
        batch, rows, channels, columns = (
            prod(d.extent for d in dims) for dims in (self.c.batch, self.others, self.channels, self.c.n)
        )
        return Sizes(
            batch, rows, tuple(w.out.extent for w in self.windows), channels, columns, self.dtype.bytes
        )


def _recognise(op: Op, function: Function) -> Windowed | None:
    c = classify_contraction(op, function)
    if c is None or not c.is_cube or op.prepare or op.fill is not None or op.pieces[0].guards:
        return None
    tensors = function.tensors()
    dtype = tensors[c.a.tensor].dtype
    same = {dtype, tensors[c.b.tensor].dtype, op.accumulate or dtype, op.outputs[0].dtype}
    if len(same) != 1 or not dtype.is_float or dtype.compute is not dtype:
        return None
    if c.b.tensor not in parameters(function) or c.b.fill is not None:
        return None
    windows = tuple(_windows(c))
    found = Windowed(op, c, windows, dtype)
    return found if 1 <= len(windows) <= 2 and found.channels and _lanes_last(found, function) else None


def _windows(c: Contraction) -> Iterator[Window]:
    """Pairs of an m and a k dimension that are one axis of A together, each with step 1 and nothing else there."""
    for p, r in product(c.m, c.k):
        forms = [f for f in c.a.index if f.coefficient(p.name) or f.coefficient(r.name)]
        if r.extent == TAPS and len(forms) == 1 and dict(forms[0].terms) == {p.name: 1, r.name: 1}:
            yield Window(p, r)


def _lanes_last(found: Windowed, function: Function) -> bool:
    """Whether channels are contiguous in the rows' operand and columns in the result: transforms run along them."""
    a = function.tensors()[found.c.a.tensor]
    axes = a.memory_order[-1], result_order(found.op.outputs[0], function)[-1]
    forms = found.c.a.index[axes[0]], found.op.pieces[0].index[axes[1]]
    wanted = found.channels, found.c.n
    return all(f.names & {d.name for d in dims} for f, dims in zip(forms, wanted, strict=True))


def result_order(out: Tensor, function: Function) -> tuple[int, ...]:
    """Memory order of ``out``, or, where it is no result, that of what is computed from it element by element."""
    for op in function.ops if out.name not in function.results else ():
        made = op.outputs[0]
        for read in reads(op):
            if read.tensor == out.name and read.index == op.pieces[0].index and made.shape == out.shape:
                return result_order(made, function)
    return out.memory_order


def _absorb(ops: list[Op], function: Function) -> list[Op]:
    """What follows an output transform element by element, and alone reads it, put into its pieces."""
    keep = {*function.results, *(a.tensor.name for a in function.args)}
    old = {op.name for op in function.ops if len(op.pieces) == 1 and is_pointwise(op)}
    for op in [op for op in ops if len(op.pieces) > 1 and not op.prepare]:
        tail = op
        while tail.name not in keep:
            readers = [o for o in ops if any(r.tensor == tail.name for r in reads(o))]
            joined = _joined(tail, readers[0]) if len(readers) == 1 and readers[0].name in old else None
            if joined is None:
                break
            ops = [joined if o is readers[0] else o for o in ops if o is not tail]
            tail = joined
    return ops


def _joined(op: Op, reader: Op) -> Op | None:
    """``reader``, one piece over the whole of what ``op`` writes, by the pieces of ``op``."""
    piece, out = reader.pieces[0], op.outputs[0]
    mine = [r for r in reads(reader) if r.tensor == out.name]
    names = [f.as_var() for f in mine[0].index]
    sizes = [1 if n is None else piece.extents.get(n, 0) for n in names]
    constant = all(f == Affine() for f, n in zip(mine[0].index, names, strict=True) if n is None)
    whole = sizes == list(out.shape) and {n for n in names if n} == {d.name for d in piece.dims}
    alike = all(r.index == mine[0].index for r in mine)
    if piece.guards or reader.fill is not None or not (constant and whole and alike):
        return None
    pieces = []
    for p in op.pieces:
        values: dict[str, Affine | int] = {n: f for n, f in zip(names, p.index, strict=True) if n is not None}
        moved = apply_to_piece(piece, values, p.dims)
        pieces.append(replace(moved, body=_filled(moved.body, out.name, p.body)))
    return replace(reader, pieces=tuple(pieces))


def _filled(body: Expr, tensor: str, value: Expr) -> Expr:
    """``body`` with ``value`` in place of every read of ``tensor``."""
    return rewrite(body, lambda node: value if isinstance(node, Read) and node.tensor == tensor else node)


class _Rewrite:
    """The comprehensions of one convolution."""

    def __init__(self, found: Windowed, function: Function, m: int, taken: set[str]) -> None:
        self.f, self.matrices, self.m, self.taken = found, filter_of(m), m, taken
        out = found.op.outputs[0]
        order = result_order(out, function)
        self.out = out if order == out.memory_order else replace(out, order=order)
        self.names = {d.name for d in (*found.op.pieces[0].dims, *found.op.pieces[0].reduce)}
        self.points = tuple(Dim(self._dim(f"{w.out.name}_f"), m + TAPS - 1) for w in found.windows)
        self.tiles = tuple(Dim(self._dim(f"{w.out.name}_t"), -(-w.out.extent // m)) for w in found.windows)
        self.rows = (*found.others, *self.tiles)
        self.row = Dim(self._dim("t"), prod(d.extent for d in self.rows))

    def ops(self) -> list[Op]:
        """Filter, input, products, output."""
        filters, u = self._filter()
        inputs, v = self._input()
        products = self._products(u, v)
        return [*filters, *inputs, products, *self._output(products.outputs[0])]

    def _dim(self, name: str) -> str:
        name = fresh(name, self.names)
        self.names.add(name)
        return name

    def _tensor(self, suffix: str, dims: Sequence[Dim]) -> Tensor:
        name = fresh(f"{self.f.op.name}_{suffix}", self.taken)
        self.taken.add(name)
        return Tensor(name, self.f.dtype, tuple(d.extent for d in dims))

    def _rows_of(
        self, matrix: Matrix, at: int, dims: Sequence[Dim], out: Tensor, values: list[Expr]
    ) -> list[Piece]:
        """One piece per row of ``matrix``; the output index is ``dims`` with the row's number on axis ``at``."""
        rest = tuple(d for i, d in enumerate(dims) if i != at)
        assert len(dims) == len(out.shape)
        pieces = []
        for number, body in enumerate(apply(matrix, values)):
            index = (
                *(Affine.var(d.name) for d in rest[:at]),
                Affine((), number),
                *(Affine.var(d.name) for d in rest[at:]),
            )
            pieces.append(Piece(rest, index, body))
        return pieces

    def _op(self, out: Tensor, pieces: list[Piece], prepare: bool = False) -> Op:
        return Op((out,), tuple(pieces), prepare=prepare, line=self.f.op.line)

    def _filter(self) -> tuple[list[Op], Tensor]:
        """``U[points, batch, channels, columns]``, one window after the other."""
        c = self.f.c
        source, made = c.b, []
        common = (*c.batch, *self.f.channels, *c.n)
        for i, w in enumerate(self.f.windows):
            dims = (*self.points[: i + 1], *(v.tap for v in self.f.windows[i + 1 :]), *common)
            out = self._tensor("u", dims)
            values: list[Expr] = [_at(source, {w.tap.name: k}) for k in range(TAPS)]
            made.append(self._op(out, self._rows_of(self.matrices.taps, i, dims, out, values), prepare=True))
            source = Read(out.name, tuple(Affine.var(d.name) for d in dims))
        return made, made[-1].outputs[0]

    def _input(self) -> tuple[list[Op], Tensor]:
        """``V[points, batch, tile, channels]``: the tiles of A, transformed along one window after the other."""
        c, windows = self.f.c, self.f.windows
        position: dict[str, Affine | int] = {
            w.out.name: Affine.var(t.name, self.m) for w, t in zip(windows, self.tiles, strict=True)
        }
        offsets: dict[str, Affine | int] = {
            w.tap.name: Affine.var(p.name) for w, p in zip(windows, self.points, strict=True)
        }
        inside = c.a.fill is None and all(w.out.extent % self.m == 0 for w in windows)
        source = replace(_at(c.a, {**position, **offsets}), fill=None if inside else c.a.fill or 0)
        made = []
        for i, point in enumerate(self.points):
            values: list[Expr] = [_at(source, {point.name: k}) for k in range(point.extent)]
            last = i == len(self.points) - 1
            dims = (*self.points, *c.batch, *self.rows, *self.f.channels)
            shape = (*self.points, *c.batch, self.row, *self.f.channels) if last else dims
            out = self._tensor("v", shape)
            pieces = self._rows_of(
                self.matrices.inputs, i, dims, replace(out, shape=tuple(d.extent for d in dims)), values
            )
            index = tuple(Affine.var(d.name) for d in dims)
            if last:
                pieces = [replace(p, index=self._flat(p.index)) for p in pieces]
            made.append(self._op(out, pieces))
            source = Read(out.name, index)
        return made, made[-1].outputs[0]

    def _flat(self, index: Index) -> Index:
        """An index over points, batch, rows and the rest, with its rows as one axis."""
        first = len(self.points) + len(self.f.c.batch)
        form = Affine()
        for d, at in zip(self.rows, index[first:], strict=False):
            form = form * d.extent + at
        return (*index[:first], form, *index[first + len(self.rows) :])

    def _products(self, u: Tensor, v: Tensor) -> Op:
        c = self.f.c
        outer = (*self.points, *c.batch)
        dims = (*outer, self.row, *c.n)
        out = self._tensor("m", dims)

        def index(*parts: Sequence[Dim]) -> Index:
            return tuple(Affine.var(d.name) for part in parts for d in part)

        left = Read(v.name, index(outer, (self.row,), self.f.channels))
        right = Read(u.name, index(outer, self.f.channels, c.n))
        piece = Piece(dims, index(dims), Call("mul", (left, right)), self.f.channels)
        return replace(self._op(out, [piece]), monoid="sum", accumulate=self.f.dtype)

    def _output(self, m: Tensor) -> list[Op]:
        """Back from points to outputs: all windows but the last, then the op's own tensor tile by tile."""
        c = self.f.c
        dims = (*self.points, *c.batch, *self.rows, *c.n)
        source = Read(m.name, self._flat(tuple(Affine.var(d.name) for d in dims)))
        made = []
        for i, (point, w) in enumerate(zip(self.points, self.f.windows, strict=True)):
            values: list[Expr] = [_at(source, {point.name: k}) for k in range(point.extent)]
            if i == len(self.points) - 1:
                made.append(self._last(values))
                break
            within = Dim(self._dim(f"{w.out.name}_i"), self.m)
            dims = tuple(within if d == point else d for d in dims)
            out = self._tensor("o", dims)
            made.append(self._op(out, self._rows_of(self.matrices.outputs, i, dims, out, values)))
            source = Read(out.name, tuple(Affine.var(d.name) for d in dims))
            self.within = within
        return made

    def _last(self, values: list[Expr]) -> Op:
        """The convolution's own op: a piece for every position within a tile, over the tiles that have it."""
        piece, windows = self.f.op.pieces[0], self.f.windows
        bodies = apply(self.matrices.outputs, values)
        pieces = []
        for at in product(range(self.m), repeat=len(windows)):
            counts = [-(-(w.out.extent - i) // self.m) for w, i in zip(windows, at, strict=True)]
            if min(counts) <= 0:
                continue
            tiles = dict(zip(windows, zip(self.tiles, at, counts, strict=True), strict=True))
            moved: dict[str, Affine | int] = {
                w.out.name: Affine.var(t.name, self.m) + i for w, (t, i, _) in tiles.items()
            }
            sized = {w.out: Dim(t.name, n) for w, (t, _, n) in tiles.items()}
            body = bodies[at[-1]]
            if len(windows) > 1:
                body = substitute(body, {self.within.name: at[0]})
            dims = tuple(sized.get(d, d) for d in piece.dims)
            pieces.append(Piece(dims, tuple(f.substitute(moved) for f in piece.index), body))
        return replace(self.f.op, outputs=(self.out,), pieces=tuple(pieces), monoid=None, accumulate=None)


def _at(read: Read, values: dict[str, Affine | int]) -> Read:
    return replace(read, index=tuple(f.substitute(values) for f in read.index))
