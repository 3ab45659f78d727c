"""Columns that arrive at run time, packed group by group where they are used instead of all before."""

from __future__ import annotations

from collections.abc import Iterable

from opc.affine import Affine
from opc.program.ir import Access
from opc.tensor.ir import Function, Op, Read, Tensor, reads
from passes.lowering._emit import Emitter, Tile, memory_access
from passes.tensor._contraction import Contraction

_AT_ONCE = 4  # terms of the sum copied from rows far apart before the next block of columns has its turn


def copying_op(c: Contraction, function: Function) -> Op | None:
    """The run-time op that packs the columns of ``c``, if nobody else reads them and copies can do its work."""
    name = c.b.tensor
    op = next((op for op in function.ops if any(t.name == name for t in op.outputs)), None)
    if op is None or op.prepare or op.monoid is not None or len(op.pieces) > 1 or len(op.outputs) > 1:
        return None
    readers = [r for other in function.ops for r in reads(other) if r.tensor == name]
    (piece,) = op.pieces
    body = piece.body
    if len(readers) > 1 or name in function.results or not isinstance(body, Read):
        return None
    made = {t.name for other in function.ops for t in other.outputs}
    arguments = {a.tensor.name: a.kind for a in function.args}
    written = {
        n for n, kind in arguments.items() if kind == "inout" or n in made
    }  # perhaps while it is still read
    plain = not piece.guards and op.fill is None and _dims(piece.index)
    return op if plain and body.tensor not in written else None


def packing_of(c: Contraction, function: Function) -> Op | None:
    """Such an op, if its copies have no padding and rows and blocks of columns are indexed apart."""
    op = copying_op(c, function)
    if op is None or len(c.n) != 2 or not _dims(c.b.index):
        return None
    body = op.pieces[0].body
    return op if isinstance(body, Read) and body.fill is None else None


def _dims(index: Iterable[Affine]) -> bool:
    """Whether each form is a dimension of its own."""
    forms = list(index)
    names = {n for f in forms for n in f.names}
    return len(names) == len(forms) and {*map(Affine.var, names)} == set(forms)


def run_of(op: Op, tensors: dict[str, Tensor], b: Read, column: str) -> int:
    """Bytes next to each other where a term of one block of columns comes from; 0: a column's terms are."""
    (piece,) = op.pieces
    assert isinstance(piece.body, Read)
    source, inner = tensors[piece.body.tensor], _names(op, b).get(column, "")
    last = piece.body.index[source.memory_order[-1]]
    return dict(piece.extents)[inner] * source.dtype.bytes if last.coefficient(inner) == 1 else 0


def _names(op: Op, b: Read) -> dict[str, str]:
    """What the op calls each dim of the contraction that reads its result."""
    (piece,) = op.pieces
    alone = [
        (mine, theirs) for mine, theirs in zip(piece.index, b.index, strict=True) if len(theirs.names) == 1
    ]
    return {n: m for mine, theirs in alone for n, m in zip(theirs.names, mine.names, strict=True)}


def pack_columns(
    emit: Emitter,
    op: Op,
    b: Read,
    tensors: dict[str, Tensor],
    tiles: dict[str, Tile],
    block: str,
    column: str,
) -> str:
    """Copy a group of blocks of columns, the tile of ``block``, near the core; returns the buffer's name. ``column``:
    the dim inside a block; terms that the cube takes at once lie inside it.
    """
    (piece,) = op.pieces
    source, extents, group = piece.body, dict(piece.extents), tiles[block]
    assert isinstance(source, Read)
    base: dict[str, Affine | int] = {}
    inner: list[str] = []
    of_block = ""
    for mine, theirs in zip(piece.index, b.index, strict=True):
        (name,), (dim,) = mine.names, theirs.names
        if dim == block:
            of_block = name
        elif dim in tiles:
            base[name] = tiles[dim].base
        else:
            inner.append(name)
    packed = tensors[b.tensor]
    shape = [group.size, *(extents[n] for n in inner)]
    buffer = emit.local(f"{packed.name}_near", packed.dtype, shape, "stage")
    at_column = inner.index(_names(op, b)[column])
    outer, last, columns = inner[: at_column - 1], inner[at_column - 1], inner[at_column:]
    rows = run_of(op, tensors, b, column) > 0
    size = _AT_ONCE if rows and extents[last] % _AT_ONCE == 0 else extents[last]
    dims = [(n, extents[n]) for n in outer] + [(last, size), *((n, extents[n]) for n in columns)]
    with emit.loop(f"{last}_o", extents[last] // size) as at:
        place = {last: Affine.var(last) + at * size}
        index = [Affine.var(n).substitute(place) for n in inner]
        for n in range(group.size):
            values = {**base, **place, of_block: group.base + n}
            moved = memory_access(tensors[source.tensor], [f.substitute(values) for f in source.index])
            emit.emit("copy_in.copy", dims, [Access(buffer, (Affine((), n), *index))], [moved])
    return buffer
