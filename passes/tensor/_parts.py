"""What one read adds to the gradient of its tensor, as pieces over that tensor's elements."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from opc.affine import Affine
from opc.tensor import domain
from opc.tensor.ir import Call, Const, Dim, Expr, Op, Piece, Read, Tensor, rewrite
from passes.tensor._algebra import expr_dims, substitute
from passes.tensor._derivatives import Term, expression
from passes.tensor._preimage import Preimage, preimages


@dataclass(frozen=True)
class Part:
    """Something that adds to a gradient: pieces over the elements of its tensor, sums where they reduce.
    ``outer`` is a factor that takes no part in the sum, over the canonical dimensions.
    """

    pieces: tuple[Piece, ...]
    outer: Term | None = None


def parts(read: Read, terms: Sequence[Term], piece: Piece, tensors: Mapping[str, Tensor]) -> Iterator[Part]:
    """What ``read`` adds if ``terms`` are the derivatives by it at every point of ``piece``."""
    tensor = tensors[read.tensor]
    found = preimages(read.index, tensor.shape, piece.extents)
    for _, boxes in itertools.groupby(sorted(found, key=lambda b: b.layer), key=lambda b: b.layer):
        layer = list(boxes)
        if len(layer) == 1 and layer[0].reduce:
            yield from _sums(layer[0], terms, piece, tensors, tensor)
            continue
        body = total(expression(t) for t in terms)
        pieces = [p for box in layer if (p := _over(box, piece, tensors, body)) is not None]
        if pieces:
            yield Part(tuple(pieces))


def merged(found: Sequence[Part]) -> list[Part]:
    """The parts, where those that write different elements are one of more pieces."""
    kept: list[Part] = []
    for part in found:
        fitting = next((i for i, other in enumerate(kept) if _disjoint(part, other)), None)
        if fitting is None:
            kept.append(part)
        else:
            kept[fitting] = Part((*kept[fitting].pieces, *part.pieces))
    return kept


def _disjoint(a: Part, b: Part) -> bool:
    if a.outer is not None or b.outer is not None:
        return False
    boxes = [[(p, domain.parallel_box(p)) for p in part.pieces] for part in (a, b)]
    pairs = itertools.product(*boxes)
    return all(
        left is not None and right is not None and domain.disjoint(p, q, left, right)
        for (p, left), (q, right) in pairs
    )


def _sums(
    box: Preimage, terms: Sequence[Term], piece: Piece, tensors: Mapping[str, Tensor], tensor: Tensor
) -> Iterator[Part]:
    """Sums over one box, with the factors that do not depend on its reduced dimensions taken out of them."""
    found = _domain(box, piece)
    if found is None:
        return
    domain_of, values = found
    if not covers(domain_of, tensor):
        body = substitute(total(expression(t) for t in terms), values)
        yield Part((replace(domain_of, body=_shown_inside(domain_of, body, tensors)),))
        return
    reduced = frozenset(d.name for d in box.reduce)
    elements = canonical_dims(domain_of)
    groups: dict[Term, list[Term]] = {}
    for term in terms:
        inner, outer = term.map(lambda e: substitute(e, values)).split(lambda e: bool(expr_dims(e) & reduced))
        groups.setdefault(outer, []).append(inner)
    for outer, inside in groups.items():
        if len(inside) == 1 and outer != Term():
            outer, inside = outer.scaled(inside[0].scale), [replace(inside[0], scale=1.0)]
        made = replace(
            domain_of, body=_shown_inside(domain_of, total(expression(t) for t in inside), tensors)
        )
        yield Part((made,), None if outer == Term() else outer.map(lambda e: substitute(e, elements)))


def _over(box: Preimage, piece: Piece, tensors: Mapping[str, Tensor], body: Expr) -> Piece | None:
    """``body`` over a box; None if the box is empty."""
    found = _domain(box, piece)
    if found is None:
        return None
    part, here = found
    return replace(part, body=_shown_inside(part, substitute(body, here), tensors))


def _domain(box: Preimage, piece: Piece) -> tuple[Piece, dict[str, Affine]] | None:
    """A piece over a box, without a body yet, and what the dimensions of ``piece`` are there; None if it is empty.

    Every dimension is as narrow as the guards make it, and guards that always hold are gone.
    """
    values = dict(box.values)
    guards = [*(g.substitute(values) for g in piece.guards), *box.guards]
    index, sizes = box.index, {d.name: d.extent for d in (*box.dims, *box.reduce)}
    while True:
        bounds = domain.box(sizes, guards)
        if bounds is None:
            return None
        narrowed = {n: high - low + 1 for n, (low, high) in bounds.items()}
        moves = {n: Affine.var(n) + low for n, (low, _) in bounds.items() if low}
        extents = {n: (0, size - 1) for n, size in narrowed.items()}
        guards = [g.substitute(moves) for g in guards]
        guards = [g for g in dict.fromkeys(guards) if domain.interval(g, extents)[0] < 0]
        index = tuple(f.substitute(moves) for f in index)
        values = {n: f.substitute(moves) for n, f in values.items()}
        if narrowed == sizes:
            break
        sizes = narrowed
    dims, reduce = (tuple(Dim(d.name, sizes[d.name]) for d in group) for group in (box.dims, box.reduce))
    return Piece(dims, index, Const(0), reduce, tuple(guards)), values


def _shown_inside(piece: Piece, body: Expr, tensors: Mapping[str, Tensor]) -> Expr:
    """The body, where reads that the verifier cannot show to be inside have a fill, which is never read."""
    bounds = domain.box(piece.extents, piece.guards)
    assert bounds is not None, "the piece has points"

    def leaf(node: Expr) -> Expr:
        if not isinstance(node, Read) or node.fill is not None:
            return node
        axes = zip(node.index, tensors[node.tensor].shape, strict=True)
        known = all(domain.inside(form, extent, bounds, piece.guards) for form, extent in axes)
        return node if known else replace(node, fill=0)

    return rewrite(body, leaf)


def covers(piece: Piece, tensor: Tensor) -> bool:
    """Whether the piece writes every element of the tensor, at one bare dimension per axis."""
    reduced = {d.name for d in piece.reduce}
    if any(not g.names & reduced for g in piece.guards):
        return False
    names = [form.as_var() for form in piece.index]
    used = [n for n in names if n is not None]
    if len(used) != len(piece.dims) or len(set(used)) < len(used):
        return False
    return all(
        piece.extents[name] == extent if name is not None else extent == 1 and form.is_const
        for name, form, extent in zip(names, piece.index, tensor.shape, strict=True)
    )


def plain(part: Part, tensor: Tensor) -> bool:
    """Whether the part is one expression for every element."""
    piece = part.pieces[0]
    whole = len(part.pieces) == 1 and part.outer is None and not piece.reduce and not piece.guards
    return whole and covers(piece, tensor)


def element(rank: int) -> tuple[Affine, ...]:
    """The canonical index: one dimension per axis."""
    return tuple(Affine.var(f"i{axis}") for axis in range(rank))


def canonical_dims(piece: Piece) -> dict[str, Affine | int]:
    """Dimensions of a piece that covers its tensor, by their canonical names."""
    named = zip(piece.index, element(len(piece.index)), strict=True)
    return {name: axis for form, axis in named if (name := form.as_var()) is not None}


def everywhere(tensor: Tensor, body: Expr) -> Piece:
    """A piece with ``body``, over canonical dimensions, for every element."""
    dims = tuple(Dim(f"i{axis}", extent) for axis, extent in enumerate(tensor.shape))
    return Piece(dims, element(len(dims)), body)


def filled(op: Op) -> Op:
    """The op with a fill of 0 unless its pieces cover its output."""
    counts = [domain.count(p, domain.parallel_box(p)) for p in op.pieces]
    whole = None not in counts and sum(c or 0 for c in counts) == op.outputs[0].size
    return op if whole else replace(op, fill=0.0)


def total(exprs: Iterable[Expr]) -> Expr:
    """The sum of expressions, in their order."""
    return functools.reduce(lambda a, b: Call("add", (a, b)), exprs)
