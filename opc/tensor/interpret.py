"""The oracle: what a tensor function means, in float64, and how far a correct result may be from it.

``evaluate`` gives plain values, ``oracle`` values with bounds. Both evaluate an op piece by piece over
blocks of its domain, with NumPy doing the inner loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import IRError, fail
from opc.tensor.body import Body, Entry, quantised
from opc.tensor.bound import Array, Bounded
from opc.tensor.domain import parallel_guards
from opc.tensor.gather import Block, write
from opc.tensor.ir import Call, DimValue, Expr, Function, Op, Piece, Read, Tensor, walk
from opc.tensor.licence import first_terms
from opc.tensor.reduce import (
    Terms,
    reduce_extreme,
    reduce_index,
    reduce_moments,
    reduce_product,
    reduce_sum,
)
from opc.tensor.types import literal
from opc.tensor.values import Mode, Value, cast, convert
from opc.tensor.verify import verify
from opc.tensor.views import viewed, viewed_bounds

BLOCK = 2**21  # elements of the largest temporary array


def evaluate(
    f: Function, arrays: Mapping[str, Array], dtype: npt.DTypeLike = np.float64, quantise: bool = False
) -> dict[str, Array]:
    """Results (and updated inout arguments) of ``f`` on ``arrays``, computed in float ``dtype``.

    With ``quantise`` every tensor is rounded to its own dtype, and results have it; otherwise floats are
    unrounded. Integers are exact either way. Raises IRError on invalid IR or arrays that do not fit.
    """
    run = _Run(f, Mode(np.dtype(dtype), quantise=quantise), {})
    entries = run.function(arrays)
    if not quantise:
        return {name: e.value.data for name, e in entries.items()}
    return {name: e.value.data.astype(e.tensor.dtype.numpy) for name, e in entries.items()}


def oracle(
    f: Function, arrays: Mapping[str, Array], chains: Mapping[str, int] | None = None
) -> dict[str, Bounded]:
    """Results (and updated inout arguments) with the bound that every correct implementation keeps.

    The bound allows any order of summation, contraction to FMA, flushed subnormals, and intermediates
    rounded to their tensors' dtypes or not. ``chains`` gives, by op name, the longest addition chain of
    its reduction where an implementation knows it; by default that is the number of terms.
    """
    run = _Run(f, Mode(np.dtype(np.float64), track=True), chains or {})
    return {name: e.bounded() for name, e in run.function(arrays).items()}


def oracle_under(source: Function, licensed: Function, arrays: Mapping[str, Array]) -> dict[str, Bounded]:
    """Values of ``source``, with the bounds of ``licensed``: what a licence turned it into, which rounds otherwise."""
    started = first_terms(licensed)
    views = viewed(arrays, source, licensed)
    wanted, made = oracle(source, arrays), oracle(started, views)
    bounds = viewed_bounds(_ranged(made, started, views), licensed, source)
    found = {}
    for name, want in wanted.items():
        # The reference is computed in float64, whose share of its bound counts where the result is no wider.
        share = DType.F64.roundoff / (want.dtype.roundoff or 1.0)
        # What meets an infinity on the licensed way may do so whatever the source gives.
        spoilt = np.isfinite(want.value) & ~np.isfinite(bounds[name].value)
        bound = np.where(spoilt, np.inf, bounds[name].bound + share * want.bound)
        found[name] = replace(bounds[name], value=want.value, bound=bound)
    return found


def _ranged(made: dict[str, Bounded], f: Function, arrays: Mapping[str, Array]) -> dict[str, Bounded]:
    """Bounds with none where a value differs from its like without limits on magnitude: it overflowed on the way."""
    free = evaluate(f, arrays)
    found = {}
    for name, b in made.items():
        near = (free[name] == b.value) | ~(np.abs(free[name] - b.value) > b.bound)
        found[name] = replace(b, bound=np.where(near, b.bound, np.inf))
    return found


def exact(f: Function, arrays: Mapping[str, Array]) -> bool:
    """Whether these arrays make every operation exact, so that results must match bit for bit."""
    return all(b.exact for b in oracle(f, arrays).values())


class _Run:
    """One evaluation of a function."""

    def __init__(self, f: Function, mode: Mode, chains: Mapping[str, int]) -> None:
        verify(f)
        self.f, self.mode, self.chains = f, mode, chains
        self.table: dict[str, Entry] = {}
        self.updated: list[str] = []

    def function(self, arrays: Mapping[str, Array]) -> dict[str, Entry]:
        inout = {a.tensor.name for a in self.f.args if a.kind == "inout"}
        with np.errstate(all="ignore"):
            for arg in self.f.args:
                self.table[arg.tensor.name] = self.argument(arg.tensor, arrays)
            for op in self.f.ops:
                for entry in self.op(op):
                    name = entry.tensor.name
                    self.table[name] = entry
                    if name in inout and name not in self.f.results:
                        self.updated.append(name)
        return {name: self.table[name] for name in (*self.f.results, *self.updated)}

    def argument(self, tensor: Tensor, arrays: Mapping[str, Array]) -> Entry:
        if tensor.name not in arrays:
            raise fail(IRError, "E0431", f"no array for the argument '{tensor.name}'")
        given = np.asarray(arrays[tensor.name])
        if given.shape != tensor.shape:
            raise fail(
                IRError,
                "E0432",
                f"the array for '{tensor.name}' has the shape {list(given.shape)}, not {list(tensor.shape)}",
            )
        data = given.astype(tensor.dtype.numpy).astype(self.mode.numpy(tensor.dtype))
        error = None
        if self.mode.track and tensor.dtype in (DType.F32, DType.BF16):
            # Matrix units read subnormals as zero.
            size = np.abs(data)
            small = (size > 0) & (size < tensor.dtype.tiny)
            error = np.where(small, size, 0.0) if small.any() else None
        return Entry(tensor, Value(data, error))

    def op(self, op: Op) -> list[Entry]:
        results = [self.blank(op, t) for t in op.outputs]
        for piece in op.pieces:
            _PieceRun(self, op, piece).run(results)
        return results

    def blank(self, op: Op, tensor: Tensor) -> Entry:
        """The output before any piece: its fill value everywhere."""
        fill = literal(op.fill or 0, tensor.dtype)
        start = quantised(np.full(tensor.shape, fill, self.mode.numpy(tensor.dtype)), tensor.dtype, self.mode)
        return Entry(tensor, start)


class _PieceRun:
    """One piece of one op: evaluates its blocks and stores them."""

    def __init__(self, run: _Run, op: Op, piece: Piece) -> None:
        self.mode, self.op, self.piece = run.mode, op, piece
        dims = (*piece.dims, *piece.reduce)
        self.lead = len(piece.dims)
        self.names = tuple(d.name for d in dims)
        self.whole = Block(self.names, (0,) * len(dims), tuple(d.extent for d in dims))
        self.body = Body(piece, run.table, op.outputs[0].dtype, self.whole, run.mode)
        self.accumulate: DType = op.accumulate or self.body.dtype
        self.chain = run.chains.get(op.name, prod(d.extent for d in piece.reduce))

    def run(self, results: list[Entry]) -> None:
        root = self.piece.body
        if self.op.monoid == "sum" and isinstance(root, Call) and root.fn == "mul" and self.piece.reduce:
            sides = [_forms(arg) for arg in root.args]
            sides.append([Affine.var(name) for name in self.names[: self.lead]])
            for block in self.split(self.whole, [[*side, *self.skipping()] for side in sides]):
                product = self.product(block)
                if product is not None:
                    self.finish(results, block, [product], None)
                else:
                    self.term_by_term(results, block)
        else:
            self.term_by_term(results, self.whole)

    def term_by_term(self, results: list[Entry], region: Block) -> None:
        """Evaluate every term of a region."""
        for block in self.split(region, [[Affine.var(name) for name in self.names]]):
            values, allowed = self.reduced(block)
            self.finish(results, block, values, allowed)

    def finish(self, results: list[Entry], block: Block, values: list[Value], allowed: Array | None) -> None:
        lead = self.lead
        target = Block(block.names[:lead], block.starts[:lead], block.extents[:lead])
        mask = target.mask(parallel_guards(self.piece))
        source = self.accumulate if self.op.monoid is not None else self.body.dtype
        for entry, value in zip(results, values, strict=True):
            self.store(entry, value, source, target, mask)
        if allowed is not None:
            self.note(results[0], allowed, target, mask)

    def store(self, entry: Entry, value: Value, source: DType, target: Block, mask: Array | None) -> None:
        if self.op.monoid in ("argmax", "argmin"):
            source = DType.I32
        value = cast(value, source, entry.tensor.dtype, self.mode, wary=False)
        lead = len(target.names)

        def fitted(data: Array) -> Array:
            return data.reshape(data.shape[:lead])

        data, error = entry.value.data, entry.value.error
        write(data, self.piece.index, target, fitted(value.data), mask)
        if value.error is not None:
            if error is None:
                error = np.zeros(entry.tensor.shape)
                entry.value = Value(data, error)
            write(error, self.piece.index, target, fitted(np.asarray(value.error)), mask)
        elif error is not None:
            write(error, self.piece.index, target, 0.0, mask)

    def note(self, entry: Entry, allowed: Array, target: Block, mask: Array | None) -> None:
        """Remember where an index is undecided, by flat position of the output."""
        flat = np.zeros((1,) * len(target.names), dtype=np.int64)
        for form, extent in zip(self.piece.index, entry.tensor.shape, strict=True):
            flat = flat * extent + target.values(form)
        positions = np.broadcast_to(flat, target.extents)
        wide = np.broadcast_to(allowed, (*target.extents, allowed.shape[-1]))
        open_ = wide.sum(axis=-1) > 1
        if mask is not None:
            open_ = open_ & mask
        if open_.any():
            entry.allowed.append((positions[open_], wide[open_]))

    def skipping(self) -> list[Affine]:
        """Guards that skip terms."""
        parallel = {d.name for d in self.piece.dims}
        return [g for g in self.piece.guards if not g.names <= parallel]

    def terms(self, block: Block) -> Terms:
        mask = block.mask(self.skipping())
        return Terms(block.extents, self.lead, self.accumulate, self.chain, mask, self.mode)

    def product(self, block: Block) -> Value | None:
        """The sum of a product as matrix products, if that is possible."""
        wide = self.mode.numpy(self.accumulate)
        a, b = (Value(v.data.astype(wide, copy=False), v.error) for v in self.body.factors(block))
        return reduce_product(a, b, self.body.dtype, self.terms(block))

    def reduced(self, block: Block) -> tuple[list[Value], Array | None]:
        """Values of all outputs over one block, on the parallel dimensions."""
        monoid, term = self.op.monoid, self.body.value(block)
        if monoid is None:
            return [term], None
        terms = self.terms(block)
        term = convert(term, self.body.dtype, self.accumulate, self.mode)
        if monoid == "sum":
            return [reduce_sum(term, terms)], None
        if monoid in ("max", "min"):
            return [reduce_extreme(monoid, term, terms)], None
        if monoid == "moments":
            return list(reduce_moments(term, terms)), None
        index, allowed = reduce_index(monoid, term, terms)
        return [index], allowed

    def split(self, region: Block, held: Sequence[Sequence[Affine]]) -> Iterator[Block]:
        """Parts of a region small enough to evaluate at once, cut along parallel dimensions.

        ``held`` are index forms of what is in memory at once; the largest of them decides.
        """
        largest = max(held, key=lambda forms: prod(region.shape_of(forms)))
        used = {name for form in largest for name in form.names}
        excess = -(-prod(region.shape_of(largest)) // BLOCK)
        sizes = list(region.extents)
        for i, name in enumerate(self.names[: self.lead]):
            if excess > 1 and name in used:
                size = max(1, sizes[i] // excess)
                excess = -(-excess * size // sizes[i])
                sizes[i] = size
        steps = [range(0, e, s) for e, s in zip(region.extents, sizes, strict=True)]
        for corner in product(*steps):
            starts = tuple(a + c for a, c in zip(region.starts, corner, strict=True))
            extents = tuple(min(s, e - c) for s, e, c in zip(sizes, region.extents, corner, strict=True))
            yield Block(self.names, starts, extents)


def _forms(expr: Expr) -> list[Affine]:
    """Every index form of an expression."""
    found: list[Affine] = []
    for node in walk(expr):
        if isinstance(node, Read):
            found += node.index
        elif isinstance(node, DimValue):
            found.append(node.form)
    return found
