"""Tile sizes of non-contraction groups: what is shared, what is whole, what is walked in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from opc.affine import Affine
from opc.machine.model import Machine
from opc.tensor.ir import Call, Dim, Op, Piece, Read, Tensor, walk
from passes.lowering._together import Together, together


@dataclass(frozen=True)
class RowPlan:
    """``sizes``: tile per dim name; ``lanes``: dims laid along the vector; ``windows``: reduced dims that
    slide over an axis together with a parallel dim; ``unrolled``: dims that are written out instead of
    looped over; ``bordered``: lanes that run over a padded edge, so that their first and last block differ;
    ``order``: dims by their steps in memory, largest first (none: as declared); ``moved``: one copy from
    memory to memory, without registers between; ``spilled``: the group does not fit and must be split.
    ``band``: how much of the parallel dim one core walks tile by tile (0: each tile is spread).
    ``merged``: reduced dims of which a block is summed up before it joins what is there.
    ``together``: ops that go over rows side by side, block by block; dims ``beside`` are walked inside each row.
    ``summed``: those of them whose terms the cube adds up.
    """

    shared: tuple[Dim, ...]
    sizes: dict[str, int]
    parallel: str
    lanes: frozenset[str]
    windows: frozenset[str]
    addressable: bool
    spilled: bool = False
    unrolled: frozenset[str] = frozenset()
    bordered: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()
    moved: bool = False
    band: int = 0
    merged: frozenset[str] = frozenset()
    together: Together | None = None
    beside: tuple[Dim, ...] = ()
    summed: tuple[Op, ...] = ()

    @property
    def shared_names(self) -> frozenset[str]:
        """Dims that all ops of a tile go over at once."""
        walked = self.together.walked if self.together is not None else ()
        return frozenset(d.name for d in (*self.shared, *walked))

    @property
    def outer(self) -> tuple[Dim, ...]:
        """Shared dims whose loops go around all that a tile does."""
        return tuple(d for d in self.shared if d not in self.beside)

    def size(self, dim: Dim) -> int:
        return min(self.sizes[dim.name], dim.extent)

    def in_order(self, dims: tuple[Dim, ...]) -> list[Dim]:
        """``dims`` as loops nest: memory is walked forwards."""
        return sorted(dims, key=lambda d: self.order.index(d.name)) if self.order else list(dims)


def plan_rows(ops: tuple[Op, ...], tensors: dict[str, Tensor], machine: Machine) -> RowPlan:
    """The plan of one group of single-piece ops for a register file."""
    pieces = [op.pieces[0] for op in ops]
    common = set.intersection(*({d.name for d in p.dims} for p in pieces))
    shared = tuple(d for d in pieces[0].dims if d.name in common)
    windows = frozenset(w for op in ops for w in windows_of(op))
    moved = _plan_move(ops, tensors, machine)
    if moved is not None:
        return moved
    # Short pieces that one op sums up alone are better written out.
    sliding = any(w for op in ops for w in windows_of(op, 0)) if len(ops) > 1 else bool(windows)
    side = None if sliding else _side_by_side(ops, tensors, machine, shared)
    return side or _plan_lanes(ops, tensors, machine, shared, windows)


def _side_by_side(
    ops: tuple[Op, ...], tensors: dict[str, Tensor], machine: Machine, shared: tuple[Dim, ...]
) -> RowPlan | None:
    """Reductions of columns in one pass over the rows they share; whole rows, as they lie in memory, where there are
    other dims to spread. Short pieces of rows, a page apart, were measured to come at half the speed.
    """
    rows = together(ops, {d.name for d in shared})
    if rows is None or len(rows.rounds) > 1 or rows.rounds[0][0]:
        return None  # what follows a reduction may count on the order of the ops: sliding windows write memory anew
    plan = _plan_lanes(rows.ops, tensors, machine, shared, frozenset())
    walked = {d.name for d in rows.walked}
    if plan.merged or plan.lanes & walked:
        return None
    last = max(map(plan.order.index, walked))
    beside = tuple(d for d in shared if plan.order.index(d.name) > last)
    others = [d for d in shared if d not in beside and d.extent > 1]
    cut = any(plan.size(d) < d.extent for d in beside)
    # A row of results has no place for others of which a tile takes several.
    single = bool(others) and all(plan.size(d) == 1 for d in others)
    if single and cut and _row_bytes(rows, beside) <= machine.role("scratch").capacity // 2:
        spread = max(others, key=lambda d: d.extent)
        return replace(plan, together=rows, beside=beside, parallel=spread.name, bordered=frozenset())
    return replace(plan, together=rows) if len(ops) > 1 else None


def _row_bytes(rows: Together, beside: tuple[Dim, ...]) -> int:
    """Of one row of the results of all reductions, in the widest type that terms add up in."""
    return 8 * prod(d.extent for d in beside) * sum(op.monoid is not None for op in rows.ops)


# Elements along which a copy that rearranges goes before it takes the next row: whole lines on both sides.
_MOVED = 16


def _plan_move(ops: tuple[Op, ...], tensors: dict[str, Tensor], machine: Machine) -> RowPlan | None:
    """A copy whose rows are turned, or are too short a piece of those read: in blocks that touch whole lines
    of both sides, walked the way the source lies, which is fetched ahead; what is written needs no fetching.
    """
    piece = ops[0].pieces[0]
    read, out, memory = piece.body, ops[0].outputs[0], machine.roles["memory"]
    if len(ops) > 1 or piece.guards or piece.reduce or not isinstance(read, Read):
        return None
    source = tensors[read.tensor]
    past = 0 < machine.limits.get("l3_bytes", 0) < out.dtype.bytes * prod(out.shape)  # stored past the caches
    if past or read.tensor == out.name:
        return None
    if source.dtype is not out.dtype or machine.route("copy_in", memory, memory) is None:
        return None
    steps = {
        d.name: (stride(read.index, source, d.name), stride(piece.index, out, d.name)) for d in piece.dims
    }
    along = [d for d in piece.dims if steps[d.name][0] == 1]
    across = [d for d in piece.dims if steps[d.name][1] == 1]
    wide = [d for d in piece.dims if d not in across and d.extent >= _MOVED]
    if len(along) != 1 or len(across) != 1 or 0 in sum(steps.values(), ()) or not wide:
        return None
    row, turned = across[0], along[0] is not across[0]
    if turned and row.extent == 2 == steps[along[0].name][1]:
        return _plan_pairs(piece, along[0], row, steps)
    if read.fill is not None:
        return None
    if row.extent < _MOVED // 2 or (not turned and row.extent > _MOVED):
        return None
    beside = along[0] if turned else min(wide, key=lambda d: steps[d.name][1])
    order = tuple(sorted(steps, key=lambda n: -steps[n][0]))
    sizes = {
        **dict.fromkeys(steps, 1),
        row.name: min(row.extent, _MOVED),
        beside.name: min(beside.extent, _MOVED),
    }
    spread = [n for n in order if sizes[n] < next(d.extent for d in piece.dims if d.name == n)]
    lanes = frozenset({row.name})
    return RowPlan(
        piece.dims, sizes, spread[0] if spread else "", lanes, frozenset(), False, order=order, moved=True
    )


def _plan_pairs(piece: Piece, along: Dim, row: Dim, steps: dict[str, tuple[int, int]]) -> RowPlan:
    """Two rows laid side by side: whole ones, walked the way the result lies."""
    order = tuple(sorted(steps, key=lambda n: -steps[n][1]))
    sizes = {**dict.fromkeys(steps, 1), row.name: 2, along.name: along.extent}
    spread = [n for n in order if n not in (row.name, along.name)]
    return RowPlan(
        piece.dims,
        sizes,
        spread[0] if spread else "",
        frozenset({row.name}),
        frozenset(),
        False,
        order=order,
        moved=True,
    )


def windows_of(op: Op, least: int | None = None) -> Iterator[str]:
    """Reduced dims that share an index form with a parallel dim, unless they are pieces that do not overlap, whose ends
    are at ``least`` so far apart.
    """
    least = _LONG if least is None else least
    piece = op.pieces[0]
    parallel, reduced = {d.name for d in piece.dims}, {d.name for d in piece.reduce}
    for node in walk(piece.body):
        if not isinstance(node, Read):
            continue
        for form in node.index:
            outside, _ = form.split(parallel)
            inside, _ = form.split(reduced)
            low, high = inside.interval(piece.extents)
            apart = all(abs(c) > high - low for _, c in outside.terms)
            if outside.terms and not (apart and high - low >= least):
                yield from inside.names


def _bordered(op: Op, tensors: dict[str, Tensor]) -> Iterator[str]:
    """Parallel dims along which a read may begin or end outside its tensor."""
    piece = op.pieces[0]
    parallel = {d.name for d in piece.dims}
    for node in walk(piece.body):
        if isinstance(node, Read) and node.fill is not None:
            for form, size in zip(node.index, tensors[node.tensor].shape, strict=True):
                if not form.names <= piece.extents.keys():
                    continue  # inside loops that are not this nest's: the edge may be anywhere
                low, high = form.interval(piece.extents)
                if low < 0 or high >= size:
                    yield from form.names & parallel


def stride(read_index: tuple[Affine, ...], tensor: Tensor, dim: str) -> int:
    """Elements of memory from one index of ``dim`` to the next."""
    stride, total = 1, 0
    for axis in reversed(tensor.memory_order):
        total += read_index[axis].coefficient(dim) * stride
        stride *= tensor.shape[axis]
    return abs(total)


def lane_dim(op: Op, tensors: dict[str, Tensor], banned: frozenset[str]) -> str | None:
    """The dim along which most operands are contiguous; a reduction writes less than it reads."""
    piece = op.pieces[0]
    uses = [(n.index, tensors[n.tensor], 1.0) for n in walk(piece.body) if isinstance(n, Read)]
    uses.append((piece.index, op.outputs[0], 2.0 / prod(d.extent for d in piece.reduce)))
    best: tuple[float, str] | None = None
    for d in (*piece.reduce, *piece.dims):
        if d.extent == 1 or d.name in banned:
            continue
        score = 0.0
        for index, tensor, weight in uses:
            step = stride(index, tensor, d.name)
            near = 0.5 if step <= _NEAR else -0.5
            score += weight * (1.0 if step == 1 else 0.0 if step == 0 else near)
        score += min(d.extent, 64) / 256
        if best is None or score >= best[0]:
            best = (score, d.name)
    return best[1] if best else None


_LONG = 15  # positions between the ends of a piece that is walked like any other dim
_NEAR = 4  # elements: neighbours at most that far apart are loaded as vectors and shuffled
_WRITTEN_OUT = 16  # operations of windows that are written out rather than looped over

_TERM_VECTORS = 12  # of the register file, that the terms of a window may take at once

_ROUNDS = 16  # tiles, of which more feed cores no better

# Elements per chunk in vectors: enough for latency, few enough for the register file.
_CHUNK_VECTORS = 4


def _plan_lanes(
    ops: tuple[Op, ...], tensors: dict[str, Tensor], machine: Machine, shared: tuple[Dim, ...],
    windows: frozenset[str],
) -> RowPlan:  # fmt: skip
    every = {d.name: d for op in ops for d in (*op.pieces[0].dims, *op.pieces[0].reduce)}
    names = {d.name for d in shared}
    wanted = [lane_dim(op, tensors, windows) for op in ops]
    # If any op wants a lane dim that not all share, the shared dims are walked one index at a time.
    inside = [w for w in wanted if w is not None and w not in names]
    lanes: set[str] = set()
    if inside:
        banned = frozenset(names) | windows
        lanes = {lane for op in ops if (lane := lane_dim(op, tensors, banned)) is not None}
    elif wanted and (last := next((w for w in reversed(wanted) if w), None)):
        lanes = {last}
    written_out = sum(_window_nodes(op, windows) for op in ops) <= _WRITTEN_OUT
    unrolled = windows if written_out else frozenset()
    # Terms that are written out hide latency by themselves.
    vectors = _CHUNK_VECTORS // 2 if unrolled else _CHUNK_VECTORS
    # Whole lines of every result, which stores past the caches need.
    narrow = min(t.dtype.bytes for op in ops for t in op.outputs)
    chunk = max(vectors * machine.vector_bytes // 4, machine.line_bytes // narrow)
    vectors = chunk * 4 // machine.vector_bytes
    # Few terms are one instruction: together they cost less than one after the other.
    terms = prod(every[w].extent for w in unrolled)
    whole = unrolled if terms * vectors <= _TERM_VECTORS else frozenset()
    sizes = {
        n: min(d.extent, chunk) if n in lanes else d.extent if n in whole else 1 for n, d in every.items()
    }
    blocks = _moments(ops, tensors, every, lanes | windows, machine)
    if blocks:
        sizes |= blocks | {lane: min(every[lane].extent, 2 * machine.vector_bytes // 4) for lane in lanes}
    parallel = next((d.name for d in shared if d.extent > 1 and d.name not in lanes), "")
    spread = [d for d in shared if d.extent // sizes[d.name] > 1]
    if spread:
        parallel = max(spread, key=lambda d: _share_out(d.extent // sizes[d.name], d.name in lanes)).name
    bordered = frozenset(b for op in ops for b in _bordered(op, tensors) if b in lanes and b != parallel)
    order = memory_order(ops, tensors, every)
    return RowPlan(
        shared,
        sizes,
        parallel,
        frozenset(lanes),
        windows,
        False,
        unrolled=unrolled,
        bordered=bordered,
        order=order,
        merged=frozenset(blocks),
    )


def _share_out(tiles: int, along: bool) -> tuple[int, bool]:
    """How well a dim with so many tiles feeds cores; ``along`` memory half as well, in short pieces of rows."""
    return min(tiles, _ROUNDS) // (2 if along else 1), not along


def _moments(
    ops: tuple[Op, ...], tensors: dict[str, Tensor], every: dict[str, Dim], banned: set[str], machine: Machine
) -> dict[str, int]:
    """Rows that moments of columns take at once: joining them to others is a division and twice the work of a term."""
    sizes: dict[str, int] = {}
    registers, order = (
        machine.role("vector").capacity // machine.vector_bytes,
        memory_order(ops, tensors, every),
    )
    for op in ops:
        rows = {d.name for d in op.pieces[0].reduce}
        if op.monoid == "moments" and rows and not rows & banned:
            inner = max(rows, key=order.index)
            sizes[inner] = min(every[inner].extent, max(1, registers // 4))
    return sizes


def _window_nodes(op: Op, windows: frozenset[str]) -> int:
    """Operations of an op that slides a window, over all of that."""
    piece = op.pieces[0]
    over = [d.extent for d in piece.reduce if d.name in windows]
    return prod(over) * sum(isinstance(n, Call | Read) for n in walk(piece.body)) if over else 0


def memory_order(ops: tuple[Op, ...], tensors: dict[str, Tensor], every: dict[str, Dim]) -> tuple[str, ...]:
    """Dims by the step they make in the results, or where they are reduced in what is read."""
    steps: dict[str, int] = {}
    for op in ops:
        piece = op.pieces[0]
        reads = [(n.index, tensors[n.tensor]) for n in walk(piece.body) if isinstance(n, Read)]
        for d in piece.dims:
            steps[d.name] = max(steps.get(d.name, 0), stride(piece.index, op.outputs[0], d.name))
        for d in piece.reduce:
            steps[d.name] = max([steps.get(d.name, 0), *(stride(*r, d.name) for r in reads)])
    return tuple(sorted(every, key=lambda n: -steps[n]))
