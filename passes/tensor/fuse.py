"""Decide which ops become one program nest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from opc.machine.model import Machine
from opc.pipeline import Context
from opc.tensor.blocks import chain_problem
from opc.tensor.ir import Dim, Function, Op, Read, reads
from opc.tensor.roles import MERGED, is_contraction
from passes.tensor._algebra import is_pointwise, is_total, skips_terms
from passes.tensor._contraction import Contraction, classify_contraction
from passes.tensor._groups import run_edges, run_order
from passes.tensor._match import (
    Index,
    beside_rows,
    feed_domain,
    feed_rows,
    join_domain,
    join_reduction,
    join_rows,
    same_rows,
)
from passes.tensor._near import Near, Prices, largest
from passes.tensor._prologue import prologue_pays, shared_prologue_pays, works_on_operands

Fit = Callable[[list[int], int], Op | None]  # members, candidate -> the candidate as a member


@dataclass(frozen=True)
class Fuse:
    """Give every op a group, re-write the members of a group over common dimensions, and make them adjacent.

    Groups grow around three kinds of roots, in this order, because what a contraction takes as its
    epilogue costs nothing: it happens while the tile is on chip.

    - contraction (depthwise ones too): pointwise ops over exactly its parallel dimensions, written at the
      same index (bias, normalisation, residual, activation). ``epilogue`` switches it off. Where the machine can
      work on an operand before it multiplies it, also ops that only make that operand (``prologue``), if
      making elements anew where tiles overlap costs less than storing and loading the tensor (others may read
      it too: it is then stored on the way, which ``shared`` switches off); and reductions
      of the result over all that the other operand does not index, moments above all (``statistics``).
    - chain: ops of several pieces that only make an operand of a contraction, or only use its result (the
      transforms of a convolution). ``chains`` switches it off.
    - rows: ops that share the parallel dimensions of a reduction (softmax, layer norm, pooling and what
      follows it). ``rows`` switches it off.
    - pointwise: ops over one domain, written at one index. ``pointwise`` switches it off.

    An op joins if it reads what the group writes, or writes what the group reads, at the same elements in
    each iteration, if no op outside would have to run in the middle of the group, and if it saves
    memory traffic: it always saves one read of the shared tensor, and its write too if nobody else
    needs it. The one cost is room: rows that are kept between two passes over them must fit in half of
    the memory next to the vector unit. Where that memory is one of vectors, the way of the rows may not be that
    of the op: the best plan for all then has to take no longer than those for the group and the op apart. A member
    that is a result, or is read outside, is stored as well.

    Other ops with several pieces, those with a fill and prepare ops stay alone.

    Before:
        func v1 linear_relu {
          arg x: f32[8,16] input
          arg w: f32[4,16] param
          op a: f32[8,4] sum accumulate f32 line 1 {
            piece m<8, n<4 reduce k<16 at m, n = mul(x[m, k], w[n, k])
          }
          op y: f32[8,4] line 2 {
            piece i<8, j<4 at i, j = max(a[i, j], 0)
          }
          return y
        }
    After:
        func v1 linear_relu {
          arg x: f32[8,16] input
          arg w: f32[4,16] param
          op a: f32[8,4] sum accumulate f32 group g0 line 1 {
            piece m<8, n<4 reduce k<16 at m, n = mul(x[m, k], w[n, k])
          }
          op y: f32[8,4] group g0 line 2 {
            piece m<8, n<4 at m, n = max(a[m, n], 0)
          }
          return y
        }
    """

    name: ClassVar[str] = "fuse"
    level: ClassVar[str] = "tensor"

    enabled: bool = True
    epilogue: bool = True
    prologue: bool = True
    shared: bool = True
    statistics: bool = True
    chains: bool = True
    rows: bool = True
    pointwise: bool = True

    def run(self, ir: Function, context: Context) -> Function:
        grouping = _Grouping(ir)
        if self.enabled:
            grouping.grow(self, context.machine)
        order = run_order(grouping.ops, grouping.group_of, grouping.leads, grouping.edges)
        assert order is not None, "every step kept the groups orderable"
        names: dict[int, str] = {}
        for i in order:
            names.setdefault(grouping.group_of[i], f"g{len(names)}")
        ops = tuple(replace(grouping.ops[i], group=names[grouping.group_of[i]]) for i in order)
        return ir if ops == ir.ops else ir.with_ops(ops)


class _Grouping:
    """Groups while they grow; ``group_of`` names the group of each op by the position of its root."""

    def __init__(self, function: Function) -> None:
        self.ops = list(function.ops)
        self.group_of = list(range(len(self.ops)))
        self.edges = run_edges(self.ops)
        self.shapes = {name: t.shape for name, t in function.tensors().items()}
        found = [classify_contraction(op, function) for op in self.ops]
        self.cube = [c is not None and c.is_cube for c in found]
        # Its epilogue may read what an earlier op of the group computes, the contraction itself never does.
        self.leads: dict[int, list[int]] = {i: [] for i, cube in enumerate(self.cube) if cube}
        self.contractions = found
        self.product = [is_contraction(op) for op in self.ops]
        self.free = [is_total(op) and not op.prepare and not skips_terms(op) for op in self.ops]
        # What may join a chain: nobody else may see what is handed on there.
        self.open = [op.fill is None and not op.prepare for op in self.ops]
        self.tensors = function.tensors()
        self.prices: Prices | None = None
        self.results = frozenset(function.results)
        self.seen = {*function.results, *(a.tensor.name for a in function.args)}

    def grow(self, options: Fuse, machine: Machine) -> None:
        """Grow groups around every root that the options allow."""
        self.prices = Prices(self.tensors, self.results, machine)
        positions = range(len(self.ops))
        for i in positions:
            if self.free[i] and self.cube[i] and options.chains:
                self._grow_chain(i)
        for i in positions:
            if self.free[i] and self.product[i] and options.epilogue:
                self._grow_around(i, options, machine)
        for i in positions:
            piece = self.ops[i].pieces[0]
            if self.free[i] and not self.product[i] and piece.reduce and not piece.guards and options.rows:
                self._grow_from(i, partial(self._fit_rows, shared=piece.dims, near=Near.of(machine)))
        for i in positions:
            if self.free[i] and is_pointwise(self.ops[i]) and options.pointwise:
                self._grow_from(i, self._fit_domain)

    def _grow_chain(self, root: int) -> None:
        """A group in whose middle the contraction is; it leads what is left if there is nothing to join it."""
        self.leads.pop(root)
        self._grow_from(root, self._fit_chain)
        if self.free[root]:
            self.leads[root] = []

    def _grow_around(self, root: int, options: Fuse, machine: Machine) -> None:
        """What happens to a contraction's result, and then to its operand."""
        c = self.contractions[root]
        staged = c is not None and self.cube[root] and works_on_operands(c, self.tensors, machine)
        fits = [self._fit_domain]
        # Where memory is cached, what has just been stored is near: parts of reductions are made from it.
        cached = c is not None and self.cube[root] and not machine.role("vector").addressable
        if (staged or cached) and options.statistics:
            fits.append(partial(self._fit_statistics, parts=cached))
        members = self._grow_from(
            root, lambda inside, j: next(filter(None, (f(inside, j) for f in fits)), None)
        )
        if c is not None and staged and options.prologue:
            self._grow_from(
                root, partial(self._fit_prologue, c=c, machine=machine, shared=options.shared), members
            )

    def _grow_from(self, root: int, fit: Fit, members: list[int] | None = None) -> list[int]:
        """Let ops join the group of ``root`` until none fits any more; its members."""
        members, count = members or [root], 0
        while count != len(members):
            count = len(members)
            for j in range(len(self.ops)):
                if j in members or not self.open[j] or self.cube[j]:
                    continue
                moved = fit(members, j)
                if moved is None or not self._orderable(members, j):
                    continue
                if self._feeds(members, j):
                    self.leads[root].append(j)
                self.ops[j] = moved
                self.group_of[j] = root
                members.append(j)
        if len(members) > 1:
            for j in members:
                self.free[j] = self.open[j] = False
        return members

    def _orderable(self, members: list[int], j: int) -> bool:
        trial = [members[0] if i == j else group for i, group in enumerate(self.group_of)]
        return run_order(self.ops, trial, self.leads, self.edges) is not None

    def _written(self, members: list[int]) -> dict[str, Index]:
        return {t.name: self.ops[m].pieces[0].index for m in members for t in self.ops[m].outputs}

    def _uses(self, members: list[int], op: Op) -> list[Read]:
        """Reads of the outputs of ``op`` in the group."""
        names = {t.name for t in op.outputs}
        return [r for m in members for r in reads(self.ops[m]) if r.tensor in names]

    def _fit_chain(self, members: list[int], j: int) -> Op | None:
        """An op of several pieces that hands something to the group, or takes something, that no other op sees."""
        op = self.ops[j]
        if len(op.pieces) == 1 or not is_pointwise(op) or any(p.guards for p in op.pieces):
            return None
        inside = sorted([*members, j])
        ops = [self.ops[i] for i in inside]
        read = {r.tensor for o in ops for r in reads(o)}
        handed = {t.name for o in ops for t in o.outputs} & read
        others = {r.tensor for i, o in enumerate(self.ops) if i not in inside for r in reads(o)}
        mine = {t.name for t in op.outputs} | {r.tensor for r in reads(op)}
        if not handed & mine or handed & (others | self.seen) or chain_problem(ops, self.tensors) is not None:
            return None
        return op

    def _fit_domain(self, members: list[int], j: int) -> Op | None:
        op, leader, written = self.ops[j], self.ops[members[0]], self._written(members)
        uses = self._uses(members, op)
        if not is_pointwise(op) or not self.free[j]:
            return None
        if self._feeds(members, j) or self._summaries(members) & {r.tensor for r in reads(op)}:
            return None
        if any(r.tensor in written for r in reads(op)):
            moved = join_domain(op, leader, written, self.shapes)
        else:
            moved = feed_domain(op, leader, uses[0]) if uses else None
        index = leader.pieces[0].index
        if moved is None or moved.pieces[0].index != index:
            return None
        return moved if all(r.index == index and r.fill is None for r in uses) else None

    def _fit_statistics(self, members: list[int], j: int, parts: bool) -> Op | None:
        """A reduction of what the group writes over everything that only the contraction's rows have, or a part."""
        op, root, written = self.ops[j], members[0], self._written(members)
        c = self.contractions[root]
        if op.monoid not in MERGED or not self.free[j] or self.product[j] or c is None or op.pieces[0].guards:
            return None
        if not any(r.tensor in written for r in reads(op)) or self._summaries(members) & {
            r.tensor for r in reads(op)
        }:
            return None
        moved = join_reduction(op, self.ops[root], written, self.shapes)
        if moved is None:
            return None
        over, rows = set(moved.pieces[0].reduce), set(c.m)
        return moved if over and (over < rows if parts else over == rows) else None

    def _summaries(self, members: list[int]) -> set[str]:
        """Tensors that are complete only when the whole group is."""
        return {t.name for m in members[1:] if self.ops[m].monoid for t in self.ops[m].outputs}

    def _fit_prologue(
        self, members: list[int], j: int, c: Contraction, machine: Machine, shared: bool
    ) -> Op | None:
        """An op that makes the operand that the contraction takes row by row, or something that such an op reads."""
        op, fed = self.ops[j], self.leads[members[0]]
        name, piece = op.name, op.pieces[0]
        if not is_pointwise(op) or not self.free[j] or piece.guards or name in self.seen:
            return None
        readers = {i for i, o in enumerate(self.ops) if any(r.tensor == name for r in reads(o))}
        if any(len({f.as_var() for f in p.index} - {None}) < len(p.index) for p in (piece,)):
            return None
        if members[0] in readers and c.a.tensor == name and c.b.tensor != name:
            if len(readers) > 1 and not shared:
                return None
            pays = prologue_pays if len(readers) == 1 else shared_prologue_pays
            return op if pays(op, self.ops[members[0]], c, self.tensors, machine) else None
        if not readers or not readers <= set(fed):
            return None
        found = [self._uses([i], op)[0] for i in readers]
        leader = self.ops[min(readers)]
        return feed_domain(op, leader, found[0]) if len(readers) == 1 else None

    def _feeds(self, members: list[int], j: int) -> bool:
        """Whether op ``j`` makes what the group's contraction, or what feeds that, reads."""
        root = members[0]
        if root not in self.leads:
            return False
        names = {t.name for t in self.ops[j].outputs}
        return any(r.tensor in names for i in (root, *self.leads[root]) for r in reads(self.ops[i]))

    def _fit_rows(self, members: list[int], j: int, shared: tuple[Dim, ...], near: Near) -> Op | None:
        op, written = self.ops[j], self._written(members)
        uses = self._uses(members, op)
        if not self.free[j]:
            return None
        inside = [self.ops[m] for m in members]
        if any(r.tensor in written for r in reads(op)):
            moved = join_rows(op, shared, written, self.shapes)
        elif uses:
            moved = feed_rows(op, shared, uses[0])
        else:
            moved = beside_rows(op, shared, inside, self.shapes) if near.cached and op.monoid else None
        extents = largest(inside)
        if moved is None or not all(same_rows(r, moved.pieces[0].index, shared, extents) for r in uses):
            return None
        fits = near.holds([*inside, moved], shared, self.tensors) and near.gains(inside, moved, self.tensors)
        return moved if fits and (near.cached or self._pays(members, j, moved, shared)) else None

    def _pays(self, members: list[int], j: int, moved: Op, shared: tuple[Dim, ...]) -> bool:
        """Whether the op costs less in the group, if need be together with other reductions of what it makes: those
        would join next.
        """
        assert self.prices is not None
        group = {m: self.ops[m] for m in members}
        alone = {j: self.ops[j]}
        if self.prices.pays(self.ops, group, {j: moved}, [alone]):
            return True
        others = self._reductions(members, j, moved, shared)
        apart = [alone, *({k: self.ops[k]} for k in others)]
        return bool(others) and self.prices.pays(self.ops, group, {j: moved, **others}, apart)

    def _reductions(self, members: list[int], j: int, moved: Op, shared: tuple[Dim, ...]) -> dict[int, Op]:
        """Reductions of what op ``j`` makes that fit the group with it."""
        made = {t.name: moved.pieces[0].index for t in moved.outputs}
        written = {**self._written(members), **made}
        found: dict[int, Op] = {}
        for k, op in enumerate(self.ops):
            reader = k not in members and self.free[k] and op.monoid and not self.product[k]
            if reader and any(r.tensor in made for r in reads(op)):
                joined = join_rows(op, shared, written, self.shapes)
                found |= {} if joined is None else {k: joined}
        return found
