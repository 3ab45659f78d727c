"""Fused groups: how a function is divided, and in which order the groups can run."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from opc.tensor.ir import Dim, Function, Op, reads
from opc.tensor.roles import roles_of
from passes.tensor._contraction import classify_contraction


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent ops that become one program nest.

    ``kind``: "contraction" (the first op is one for the matrix unit, perhaps after ops that make an operand; the
    others are pointwise over its parallel dimensions, or reduce over those of one operand), "chain" (ops of several
    pieces around a contraction; ``shared`` is empty), "rows" (something is reduced, all ops share the dimensions
    ``shared``), "pointwise" (all ops have the dimensions ``shared``) or "pieces" (one op of several pieces or with
    a fill; ``shared`` is empty).
    """

    name: str
    kind: str
    ops: tuple[Op, ...]
    shared: tuple[Dim, ...]

    @property
    def prepare(self) -> bool:
        return self.ops[0].prepare

    @property
    def internal(self) -> frozenset[str]:
        """Tensors that the group writes."""
        return frozenset(t.name for op in self.ops for t in op.outputs)


def groups(function: Function) -> tuple[Group, ...]:
    """The groups of a fused function in order; an op without a group is its own."""
    runs = groupby(enumerate(function.ops), key=lambda item: item[1].group or f"op {item[0]}")
    return tuple(_describe(name, tuple(op for _, op in run), function) for name, run in runs)


def _describe(name: str, ops: tuple[Op, ...], function: Function) -> Group:
    around = roles_of(ops)
    first = around.root if around is not None else ops[0]
    if len(ops) > 1 and any(len(op.pieces) > 1 for op in ops):
        return Group(name, "chain", ops, ())
    if len(first.pieces) > 1 or first.fill is not None:
        return Group(name, "pieces", ops, ())
    contraction = classify_contraction(first, function)
    if contraction is not None and contraction.is_cube:
        return Group(name, "contraction", ops, first.pieces[0].dims)
    kind = "rows" if any(op.pieces[0].reduce for op in ops) else "pointwise"
    everywhere = [d for d in first.pieces[0].dims if all(d in op.pieces[0].dims for op in ops)]
    return Group(name, kind, ops, tuple(everywhere))


Edge = tuple[int, int]  # positions of two ops, of which the first has to run first


def run_edges(ops: Sequence[Op]) -> list[Edge]:
    """What has to run before what; stays as it is when an op is written over other dimensions."""
    writer = {t.name: i for i, op in enumerate(ops) for t in op.outputs}
    # Before the op that updates an inout argument, its name means the old value.
    pairs = (sorted((writer.get(r.tensor, i), i)) for i, op in enumerate(ops) for r in reads(op))
    return list(dict.fromkeys((first, then) for first, then in pairs if first != then))


def run_order(
    ops: Sequence[Op], group_of: Sequence[int], leads: Mapping[int, Collection[int]], edges: Sequence[Edge]
) -> list[int] | None:
    """An order of the ops that keeps groups together and puts readers after writers; None if the groups
    wait for each other. ``group_of`` names a group by the position of its root; a root in ``leads`` comes
    first in it, after the members that ``leads`` names. Prepare ops precede all others; otherwise the given
    order is kept where it can be. ``edges`` are the ``run_edges`` of the ops.
    """
    members: dict[int, list[int]] = {}
    for i, group in enumerate(group_of):
        members.setdefault(group, []).append(i)
    after: dict[int, set[int]] = {group: set() for group in members}
    waits = dict.fromkeys(members, 0)
    for first, then in edges:
        if group_of[first] == group_of[then] or group_of[then] in after[group_of[first]]:
            continue
        after[group_of[first]].add(group_of[then])
        waits[group_of[then]] += 1
    for group in members:
        if group in leads:
            ahead = [i for i in members[group] if i in leads[group]]
            members[group] = [*ahead, group, *(i for i in members[group] if i not in (group, *ahead))]
    rank = {group: (not ops[inside[0]].prepare, inside[0]) for group, inside in members.items()}
    ready = [(rank[group], group) for group, count in waits.items() if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, group = heapq.heappop(ready)
        order += members[group]
        for reader in sorted(after[group]):
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, (rank[reader], reader))
    return order if len(order) == len(ops) else None
