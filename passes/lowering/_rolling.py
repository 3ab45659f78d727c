"""Windows that slide: positions are read in order, each reduced to one column, and every column is kept until the
last window over it is complete.

Reads and stores mix evenly that way, which memory rewards: results of a whole block stored at once were measured to
take a quarter longer, as nothing is fetched meanwhile. No column is computed twice either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import gcd

from opc.affine import Affine
from opc.tensor.blocks import Block, Restriction
from opc.tensor.ir import Call, Expr, Op, Piece, Read, Tensor
from passes.lowering._emit import Emitter
from passes.lowering._rows import RowNest
from passes.lowering._separate import Separated

_MERGED = {"max": "max", "min": "min", "sum": "add"}


@dataclass
class RollingNest:
    """Emits the results of one block of all dimensions but ``split.inner.along``, which it walks from end to end."""

    emit: Emitter
    split: Separated
    rest: tuple[Op, ...]
    tensors: dict[str, Tensor]
    stored: frozenset[str]

    def __post_init__(self) -> None:
        inner = self.split.inner
        self.last = inner.span(1) - 1
        every = gcd(inner.step, inner.pace)  # between them lie positions of no window
        self.offsets = range(self.last % every, self.last, every)
        self.columns: dict[int, Tensor] = {}  # by their offset in the window

    def run(self, blocks: dict[str, Block]) -> None:
        """Emit one block."""
        inner = self.split.inner
        along = self.split.second.pieces[0].extents[inner.along]
        self.columns = {at: self._kept(blocks) for at in self.offsets}
        for at in self.offsets:
            if at <= self.last - inner.step:
                self._column(blocks, Affine((), at), at)
        for tile in self.emit.tiles(inner.along, along, 1):
            start = tile.base * inner.step
            for at in self.offsets:
                if at > self.last - inner.step:
                    self._column(blocks, start + at, at)
            self._complete({**blocks, inner.along: Block(tile.base, 1)}, start + self.last)

    def _nest(self, ops: tuple[Op, ...], tensors: dict[str, Tensor], stored: frozenset[str]) -> None:
        RowNest(self.emit, ops, tensors, stored).inside(frozenset({self.split.outer.along}))

    def _at(self, blocks: dict[str, Block], position: Affine) -> tuple[Restriction, dict[str, Block]]:
        out = self.split.first.outputs[0]
        here = Restriction({**self.tensors, out.name: out}, {out.name})
        return here, {**blocks, self.split.position: Block(position, 1)}

    def _kept(self, blocks: dict[str, Block]) -> Tensor:
        """Memory for one column."""
        here, place = self._at(blocks, Affine())
        (op,) = here.apply((self.split.first,), place)
        out = op.outputs[0]
        return replace(out, name=self.emit.local("column", out.dtype, out.shape, "scratch"))

    def _column(self, blocks: dict[str, Block], position: Affine, at: int) -> None:
        here, place = self._at(blocks, position)
        (op,) = here.apply((self.split.first,), place)
        kept = self.columns[at]
        self._nest((replace(op, outputs=(kept,)),), here.tensors, frozenset({kept.name}))

    def _complete(self, blocks: dict[str, Block], position: Affine) -> None:
        """The last column of a window, the results under it, and what the next window still needs."""
        here, place = self._at(blocks, position)
        (last,) = here.apply((self.split.first,), place)
        name = last.outputs[0].name
        for at, kept in self.columns.items():
            here.tensors[self._key(at)] = kept
            here.origin[self._key(at)] = here.origin[name]
        ops = here.apply((self._merged(), *self.rest), place)
        step = self.split.inner.step
        moves = [self._moved(here, at, place) for at in (*self.offsets, self.last) if at >= step]
        kept_names = {self.columns[at].name for at in self.offsets}
        self._nest((last, *ops, *moves), here.tensors, self.stored | kept_names)

    def _key(self, at: int) -> str:
        """What reads call a column; its memory has another name, because the same ops write it anew."""
        name = self.split.first.outputs[0].name
        return name if at == self.last else f"{name} {at}"

    def _merged(self) -> Op:
        """The reduction along the window as an expression of its columns."""
        op, inner = self.split.second, self.split.inner
        piece = op.pieces[0]
        index = self._index(Affine.var(inner.along, inner.step) + self.last)
        terms: list[Expr] = [Read(self._key(at), index) for at in range(0, self.last + 1, inner.pace)]
        body = reduce(lambda a, b: Call(_MERGED[str(op.monoid)], (a, b)), terms)
        return replace(op, monoid=None, accumulate=None, pieces=(replace(piece, body=body, reduce=()),))

    def _index(self, position: Affine) -> tuple[Affine, ...]:
        place = {self.split.position: position}
        return tuple(f.substitute(place) for f in self.split.first.pieces[0].index)

    def _moved(self, here: Restriction, at: int, place: dict[str, Block]) -> Op:
        """A column kept for the next window, where it stands ``inner.step`` earlier."""
        first, target = self.split.first, self.columns[at - self.split.inner.step]
        piece = first.pieces[0]
        body = Read(self._key(at), piece.index)
        moved = Piece(piece.dims, piece.index, body)
        op = replace(first, outputs=(target,), monoid=None, accumulate=None, pieces=(moved,))
        there = Restriction(here.tensors, {target.name})
        there.origin = dict(here.origin)
        (found,) = there.apply((op,), place)
        return found
