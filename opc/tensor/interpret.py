"""The oracle: what a tensor function means, in float64, and how far a correct result may be from it.

``evaluate`` gives plain values, ``oracle`` values with bounds. Both evaluate an op piece by piece over
blocks of its domain, with NumPy doing the inner loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from opc.affine import Affine
from opc.dtypes import DType
from opc.errors import IRError, fail
from opc.tensor.bound import Array, Bounded, Choices
from opc.tensor.domain import parallel_guards
from opc.tensor.gather import Block, Source, write
from opc.tensor.ir import Call, Const, DimValue, Expr, Function, Op, Piece, Read, Tensor, walk
from opc.tensor.reduce import (
    Terms,
    reduce_extreme,
    reduce_index,
    reduce_moments,
    reduce_product,
    reduce_sum,
)
from opc.tensor.types import Typed, annotate, literal
from opc.tensor.values import Mode, Value, apply, cast, convert, representable, rounding, settle
from opc.tensor.verify import verify

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


def exact(f: Function, arrays: Mapping[str, Array]) -> bool:
    """Whether these arrays make every operation exact, so that results must match bit for bit."""
    return all(b.exact for b in oracle(f, arrays).values())


@dataclass(slots=True)
class _Entry:
    """A tensor and its values; ``allowed`` are the indices that rounding leaves to an argmax."""

    tensor: Tensor
    value: Value
    allowed: list[tuple[Array, Array]] = field(default_factory=list)
    operand: Value | None = None

    def bounded(self) -> Bounded:
        error = self.value.error
        bound = np.zeros(self.value.data.shape) if error is None else np.asarray(error, dtype=np.float64)
        choices = None
        if self.allowed:
            width = max(a.shape[1] for _, a in self.allowed)
            rows = [np.pad(a, ((0, 0), (0, width - a.shape[1]))) for _, a in self.allowed]
            choices = Choices(np.concatenate([p for p, _ in self.allowed]), np.concatenate(rows))
            # Distance means nothing for an index: the choices decide.
            bound = np.where(
                np.isin(np.arange(bound.size), choices.positions).reshape(bound.shape), 0.0, bound
            )
        return Bounded(self.value.data, bound, self.tensor.dtype, choices)

    def read(self) -> Value:
        """The values as later ops see them: what may have overflowed in storage is unknown."""
        if self.operand is None:
            value, dtype = self.value, self.tensor.dtype
            if value.error is not None:
                sure = np.isfinite(value.error)
                value = settle(value, lambda: sure, dtype)
            self.operand = value
        return self.operand


class _Run:
    """One evaluation of a function."""

    def __init__(self, f: Function, mode: Mode, chains: Mapping[str, int]) -> None:
        verify(f)
        self.f, self.mode, self.chains = f, mode, chains
        self.table: dict[str, _Entry] = {}
        self.updated: list[str] = []

    def function(self, arrays: Mapping[str, Array]) -> dict[str, _Entry]:
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

    def argument(self, tensor: Tensor, arrays: Mapping[str, Array]) -> _Entry:
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
        return _Entry(tensor, Value(data, error))

    def op(self, op: Op) -> list[_Entry]:
        results = [self.blank(op, t) for t in op.outputs]
        for piece in op.pieces:
            _PieceRun(self, op, piece).run(results)
        return results

    def blank(self, op: Op, tensor: Tensor) -> _Entry:
        """The output before any piece: its fill value everywhere."""
        fill = literal(op.fill or 0, tensor.dtype)
        start = Value(np.full(tensor.shape, fill, dtype=self.mode.numpy(tensor.dtype)))
        if tensor.dtype.is_float:
            start = cast(start, tensor.dtype.compute, tensor.dtype, self.mode, wary=False)
        error = None if start.error is None else np.broadcast_to(start.error, tensor.shape).copy()
        return _Entry(tensor, Value(start.data, error))


class _PieceRun:
    """One piece of one op: evaluates its blocks and stores them."""

    def __init__(self, run: _Run, op: Op, piece: Piece) -> None:
        self.run_, self.mode, self.op, self.piece = run, run.mode, op, piece
        tensors = {name: e.tensor for name, e in run.table.items()}
        self.nodes = annotate(piece.body, tensors, op.outputs[0].dtype)[0]
        dims = (*piece.dims, *piece.reduce)
        self.names = tuple(d.name for d in dims)
        self.whole = Block(self.names, (0,) * len(dims), tuple(d.extent for d in dims))
        self.sources: dict[tuple[str, bool], Source] = {}
        body = self.nodes[-1].dtype
        assert body is not None
        self.body_type: DType = body
        self.accumulate: DType = op.accumulate or body

    def run(self, results: list[_Entry]) -> None:
        for block in self.blocks():
            values, allowed = self.reduced(block)
            lead = len(self.piece.dims)
            target = Block(block.names[:lead], block.starts[:lead], block.extents[:lead])
            mask = target.mask(parallel_guards(self.piece))
            source = self.accumulate if self.op.monoid is not None else self.body_type
            for entry, value in zip(results, values, strict=True):
                self.store(entry, value, source, target, mask)
            if allowed is not None:
                self.note(results[0], allowed, target, mask)

    def store(self, entry: _Entry, value: Value, source: DType, target: Block, mask: Array | None) -> None:
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

    def note(self, entry: _Entry, allowed: Array, target: Block, mask: Array | None) -> None:
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

    def reduced(self, block: Block) -> tuple[list[Value], Array | None]:
        """Values of all outputs over one block, on the parallel dimensions."""
        monoid, reduce = self.op.monoid, self.piece.reduce
        if monoid is None:
            return [self.body(block)], None
        mask = block.mask([g for g in self.piece.guards if not g.names <= {d.name for d in self.piece.dims}])
        count = prod(d.extent for d in reduce)
        chain = self.run_.chains.get(self.op.name, count)
        terms = Terms(block.extents, len(self.piece.dims), self.accumulate, chain, mask, self.mode)
        if monoid == "sum" and self.is_product and reduce:
            product = self.product(block, terms)
            if product is not None:
                return [product], None
        term = convert(self.body(block), self.body_type, self.accumulate, self.mode)
        if monoid == "sum":
            return [reduce_sum(term, terms)], None
        if monoid in ("max", "min"):
            return [reduce_extreme(monoid, term, terms)], None
        if monoid == "moments":
            return list(reduce_moments(term, terms)), None
        index, allowed = reduce_index(monoid, term, terms)
        return [index], allowed

    @property
    def is_product(self) -> bool:
        root = self.piece.body
        return isinstance(root, Call) and root.fn == "mul"

    def product(self, block: Block, terms: Terms) -> Value | None:
        """The reduction of a product as matrix products, if that is possible."""
        root = self.nodes[-1]
        values = self.values(block, len(self.nodes) - 1)
        operands = []
        for i in root.args:
            value = self.operand(values, i, self.body_type)
            operands.append(
                Value(value.data.astype(self.mode.numpy(self.accumulate), copy=False), value.error)
            )
        return reduce_product(operands[0], operands[1], self.body_type, terms)

    def body(self, block: Block) -> Value:
        """The scalar expression over one block."""
        value = self.values(block, len(self.nodes))[-1]
        assert value is not None
        shape = (1,) * len(block.names)
        if value.data.ndim < len(shape):
            value = Value(np.broadcast_to(value.data, shape), value.error)
        return value

    def values(self, block: Block, until: int) -> list[Value | None]:
        """Values of the first ``until`` nodes; those already consumed are dropped."""
        values: list[Value | None] = []
        for typed in self.nodes[:until]:
            values.append(self.node(typed, values, block))
            for i in typed.args:
                values[i] = None
        return values

    def node(self, typed: Typed, values: list[Value | None], block: Block) -> Value:
        node, dtype = typed.node, typed.dtype
        if isinstance(node, Read):
            return self.read(node, block)
        if isinstance(node, DimValue):
            return Value(block.values(node.form))
        if isinstance(node, Const):
            return self.constant(node, dtype, len(block.names))
        source = self.nodes[typed.args[0]].dtype
        first = values[typed.args[0]]
        assert first is not None
        if node.fn in DTYPE_NAMES:
            assert source is not None
            target = DType(node.fn)
            return cast(first, source, target, self.mode)
        if node.fn == "select":
            assert dtype is not None
            rest = [self.operand(values, i, dtype) for i in typed.args[1:]]
            return apply(node.fn, [first, *rest], dtype, self.mode)
        common = dtype
        if common is None:
            common = _meet([self.nodes[i].dtype for i in typed.args])
        return apply(node.fn, [self.operand(values, i, common) for i in typed.args], common, self.mode)

    def operand(self, values: list[Value | None], i: int, dtype: DType) -> Value:
        value, source = values[i], self.nodes[i].dtype
        assert value is not None
        assert source is not None
        return convert(value, source, dtype, self.mode)

    def constant(self, node: Const, dtype: DType | None, rank: int) -> Value:
        kind = dtype or DType.F32
        own = node.dtype or kind
        number = literal(node.value, own)
        data = np.full((1,) * rank, number, dtype=self.mode.numpy(own))
        if not own.is_float:
            return Value(data)
        if self.mode.quantise:
            return Value(data.astype(own.numpy).astype(self.mode.numpy(own)))
        if not self.mode.track or own is DType.F64 or representable(data, own):
            return Value(data)
        return Value(data, rounding(data, own))

    def read(self, node: Read, block: Block) -> Value:
        entry = self.run_.table[node.tensor]
        value = entry.read()
        fill = literal(node.fill or 0, entry.tensor.dtype)
        data = self.source(node.tensor, value.data, False).read(node.index, block, fill)
        if value.error is None:
            return Value(data)
        shape = np.broadcast_to(value.error, value.data.shape)
        return Value(data, self.source(node.tensor, shape, True).read(node.index, block, 0.0))

    def source(self, name: str, array: Array, error: bool) -> Source:
        if (name, error) not in self.sources:
            self.sources[name, error] = Source(array, self.whole)
        return self.sources[name, error]

    def blocks(self) -> Iterator[Block]:
        """Parts of the domain small enough to evaluate at once, split along parallel dimensions."""
        lead = len(self.piece.dims)
        sizes = self.split()
        starts = [range(0, e, s) for e, s in zip(self.whole.extents[:lead], sizes, strict=True)]
        for corner in product(*starts):
            extents = tuple(
                min(s, e - c) for s, e, c in zip(sizes, self.whole.extents[:lead], corner, strict=True)
            )
            rest = self.whole.extents[lead:]
            yield Block(self.names, (*corner, *(0,) * len(rest)), (*extents, *rest))

    def split(self) -> list[int]:
        """Extent of a block along each parallel dimension."""
        lead = len(self.piece.dims)
        sizes = list(self.whole.extents[:lead])
        largest = max(self.footprints(), key=lambda used: prod(self.whole.shape_of(used)))
        used = {name for form in largest for name in form.names}
        excess = -(-prod(self.whole.shape_of(largest)) // BLOCK)
        for i, name in enumerate(self.names[:lead]):
            if excess > 1 and name in used:
                size = max(1, sizes[i] // excess)
                excess = -(-excess * size // sizes[i])
                sizes[i] = size
        return sizes

    def footprints(self) -> list[list[Affine]]:
        """Index forms of what is held at once: the factors of a product and its result, or all terms."""
        everything = [Affine.var(name) for name in self.names]
        root = self.piece.body
        if self.op.monoid == "sum" and isinstance(root, Call) and root.fn == "mul":
            sides = [_forms(arg) for arg in root.args]
            sides.append(everything[: len(self.piece.dims)])
            return [[*side, *_masking(self.piece)] for side in sides]
        return [everything]


DTYPE_NAMES = frozenset(str(d) for d in DType)


def _meet(types: Sequence[DType | None]) -> DType:
    order = [DType.I32, DType.F32, DType.F64]
    return max((t for t in types if t is not None), key=order.index)


def _forms(expr: Expr) -> list[Affine]:
    found: list[Affine] = []
    for node in walk(expr):
        if isinstance(node, Read):
            found += node.index
        elif isinstance(node, DimValue):
            found.append(node.form)
    return found


def _masking(piece: Piece) -> tuple[Affine, ...]:
    parallel = {d.name for d in piece.dims}
    return tuple(g for g in piece.guards if not g.names <= parallel)
