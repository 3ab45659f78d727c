"""Merge axes that are adjacent in memory and always indexed together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import ClassVar

from opc.affine import Affine
from opc.pipeline import Context
from opc.tensor.ir import Dim, DimValue, Expr, Function, Op, Piece, Read, Tensor, reads, rewrite, walk
from passes.tensor._algebra import fresh


@dataclass(frozen=True)
class Collapse:
    """Axes that every op walks as one become one; axes of extent 1 disappear.

    A 1x1 convolution then has one dimension of rows, an elementwise kernel one dimension. Two axes of a
    tensor, neighbours in memory, merge if every index of it holds a dimension ``d1`` (perhaps shifted) on
    the outer one and a dimension ``d2`` over the whole of the inner one, and nothing else in that op
    tells the two apart: every tensor that mentions one mentions both so, both are parallel or both
    reduced in this order, and neither guards nor values use them. Terms keep their order: the merged
    dimension is the row-major number of the pair.

    Shapes of arguments and results change here, their bytes in memory do not.

    Before:
        func v1 add {
          arg x: f32[2,8,4,4] order 0,2,3,1 input
          arg b: f32[8,1,1] param
          op y: f32[2,8,4,4] order 0,2,3,1 {
            piece n<2, c<8, h<4, w<4 at n, c, h, w = add(x[n, c, h, w], b[c, 0, 0])
          }
          return y
        }

    After:
        func v1 add {
          arg x: f32[32,8] input
          arg b: f32[8] param
          op y: f32[32,8] {
            piece n_h_w<32, c<8 at n_h_w, c = add(x[n_h_w, c], b[c])
          }
          return y
        }
    """

    name: ClassVar[str] = "collapse"
    level: ClassVar[str] = "tensor"

    def run(self, ir: Function, context: Context) -> Function:
        """The function over fewer axes; the same function if none merge."""
        views = _Links(ir).views()
        if not views:
            return ir
        args = tuple(replace(a, tensor=_merged_tensor(a.tensor, views)) for a in ir.args)
        return replace(ir, args=args, ops=tuple(_merged_op(op, views) for op in ir.ops))


Link = tuple[str, int, int]  # a tensor's axes, outer and inner, with nothing but extents of 1 between them
Pair = tuple[str, str]  # the dimensions that index them
Use = tuple[str, tuple[Affine, ...]]
# For every tensor that changes: its new axes in declared order, each the old axes it consists of, outer first.
Views = Mapping[str, tuple[tuple[int, ...], ...]]


def _uses(piece: Piece, op: Op) -> list[Use]:
    written = [(t.name, piece.index) for t in op.outputs]
    return written + [(n.tensor, n.index) for n in walk(piece.body) if isinstance(n, Read)]


def _pair(
    index: tuple[Affine, ...], link: Link, inner_extent: int, extents: Mapping[str, int]
) -> Pair | None:
    """The dimensions that walk both axes of a link as one; where the outer one leaves the tensor, so does the
    merged index, therefore fills stay as they are.
    """
    outer, inner = index[link[1]], index[link[2]]
    d1, d2 = Affine(outer.terms).as_var(), inner.as_var()
    if d1 is None or d2 is None or d1 == d2 or extents[d2] != inner_extent:
        return None
    return d1, d2


class _Links:
    """Which neighbouring axes still may merge: all at first, fewer until no op objects."""

    def __init__(self, function: Function) -> None:
        self.tensors = function.tensors()
        self.pieces = [(p, _uses(p, op)) for op in function.ops for p in op.pieces]
        # Outputs of one op share an index, so they are viewed alike or not at all.
        self.alike = [op.outputs for op in function.ops if len(op.outputs) > 1]
        self.kept = self._kept()
        self.open = {
            (name, outer, inner) for name, axes in self.kept.items() for outer, inner in pairwise(axes)
        }

    def views(self) -> Views:
        """What merges in the end."""
        while refused := set(self._refused()):
            self.open -= refused
        found = {name: self._view(name) for name in self.tensors}
        return {n: view for n, view in found.items() if len(view) < len(self.tensors[n].shape)}

    def _kept(self) -> dict[str, tuple[int, ...]]:
        """Axes of every tensor in memory order without those of extent 1 that every index leaves at 0."""
        gone = {(t.name, a) for t in self.tensors.values() for a, extent in enumerate(t.shape) if extent == 1}
        for _, uses in self.pieces:
            gone -= {(name, a) for name, index in uses for a, form in enumerate(index) if form != Affine()}
        for outputs in self.alike:
            for axis in range(len(outputs[0].shape)):
                if any((t.name, axis) not in gone for t in outputs):
                    gone -= {(t.name, axis) for t in outputs}
        # One axis stays: scalars are for what was declared so.
        return {
            name: tuple(a for a in t.memory_order if (name, a) not in gone) or t.memory_order[-1:]
            for name, t in self.tensors.items()
        }

    def _view(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Runs of open links, in the order in which their first axes were declared."""
        runs: list[tuple[int, ...]] = []
        for axis in self.kept[name]:
            if runs and (name, runs[-1][-1], axis) in self.open:
                runs[-1] += (axis,)
            else:
                runs.append((axis,))
        return tuple(sorted(runs, key=min))

    def _refused(self) -> Iterator[Link]:
        """Open links that a piece cannot follow, or that one of several outputs lacks."""
        for piece, uses in self.pieces:
            yield from self._refused_by_piece(piece, uses)
        for outputs in self.alike:
            links = {(outer, inner) for t in outputs for name, outer, inner in self.open if name == t.name}
            for link in links:
                if any((t.name, *link) not in self.open for t in outputs):
                    yield from ((t.name, *link) for t in outputs)

    def _refused_by_piece(self, piece: Piece, uses: list[Use]) -> Iterator[Link]:
        found = [(link, pair) for use in uses for link, pair in self._linked(use, piece)]
        told_apart = {name for form in piece.guards for name in form.names}
        told_apart |= {n for node in walk(piece.body) if isinstance(node, DimValue) for n in node.form.names}
        legal = {
            pair
            for pair in {p for _, p in found if p is not None}
            if told_apart.isdisjoint(pair)
            and _follow(pair, piece)
            and all(self._together(pair, use, piece) for use in uses)
        }
        yield from (link for link, pair in found if pair not in legal)

    def _linked(self, use: Use, piece: Piece) -> Iterator[tuple[Link, Pair | None]]:
        """Every open link of the tensor used, and the pair of dimensions on it."""
        name, index = use
        axes = self.kept[name]
        for outer, inner in pairwise(axes):
            link = (name, outer, inner)
            if link in self.open:
                yield link, _pair(index, link, self.tensors[name].shape[inner], piece.extents)

    def _together(self, pair: Pair, use: Use, piece: Piece) -> bool:
        """Whether a use mentions neither dimension, or each once and on linked axes."""
        mentioned = sum(name in form.names for form in use[1] for name in pair)
        return not mentioned or (mentioned == 2 and any(p == pair for _, p in self._linked(use, piece)))


def _follow(pair: Pair, piece: Piece) -> bool:
    """Whether merging the two keeps the order of terms."""
    reduced = [d.name for d in piece.reduce]
    if not set(pair) & set(reduced):
        return True
    return set(pair) <= set(reduced) and reduced.index(pair[1]) == reduced.index(pair[0]) + 1


def _merged_tensor(tensor: Tensor, views: Views) -> Tensor:
    view = views.get(tensor.name)
    if view is None:
        return tensor
    place = {axis: i for i, axis in enumerate(tensor.memory_order)}
    order = tuple(sorted(range(len(view)), key=lambda new: place[view[new][0]]))
    shape = tuple(prod(tensor.shape[a] for a in axes) for axes in view)
    return Tensor(tensor.name, tensor.dtype, shape, order if order != tuple(range(len(view))) else None)


def _merged_op(op: Op, views: Views) -> Op:
    if not any(t.name in views for t in op.outputs) and not any(r.tensor in views for r in reads(op)):
        return op
    outputs = tuple(_merged_tensor(t, views) for t in op.outputs)
    return replace(op, outputs=outputs, pieces=tuple(_merged_piece(p, op, views) for p in op.pieces))


def _merged_piece(piece: Piece, op: Op, views: Views) -> Piece:
    merged = _chains(piece, op, views)
    extents = piece.extents

    def forms(name: str, index: tuple[Affine, ...]) -> tuple[Affine, ...]:
        if name not in views:
            return index
        return tuple(merge([index[a] for a in axes]) for axes in views[name])

    def merge(parts: list[Affine]) -> Affine:
        if len(parts) == 1:
            return parts[0]
        below = prod(extents[f.terms[0][0]] for f in parts[1:])
        return Affine.var(merged[parts[0].terms[0][0]].name) + parts[0].const * below

    def leaf(node: Expr) -> Expr:
        return replace(node, index=forms(node.tensor, node.index)) if isinstance(node, Read) else node

    inner = {d for head, chain in merged.items() for d in chain.parts if d != head}

    def dims(old: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(merged[d.name].dim if d.name in merged else d for d in old if d.name not in inner)

    return replace(
        piece,
        dims=dims(piece.dims),
        index=forms(op.name, piece.index),
        body=rewrite(piece.body, leaf),
        reduce=dims(piece.reduce),
    )


@dataclass(frozen=True, slots=True)
class _Chain:
    """Dimensions that become one, outermost first."""

    name: str
    parts: tuple[str, ...]
    extent: int

    @property
    def dim(self) -> Dim:
        return Dim(self.name, self.extent)


def _chains(piece: Piece, op: Op, views: Views) -> dict[str, _Chain]:
    """The merged dimensions of a piece by the outermost of their parts."""
    extents = piece.extents
    parts = {
        tuple(index[a].terms[0][0] for a in axes): None
        for name, index in _uses(piece, op)
        for axes in views.get(name, ())
        if len(axes) > 1
    }
    taken = set(extents)
    found: dict[str, _Chain] = {}
    for names in parts:
        name = fresh("_".join(names), taken)
        taken.add(name)
        found[names[0]] = _Chain(name, names, prod(extents[n] for n in names))
    return found
