"""From the dependences of a body to the flags and barriers that enforce them.

Works on one body at a time, innermost first. Every dependence between two pipes that program order,
inner loops and other flags do not already imply becomes a flag: set after the source statement, waited
for before the target statement, ``distance`` flattened iterations later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from opc.machine.model import Machine
from opc.program.dependence import Dependences, Touch, instr_touches
from opc.program.ir import Instr, Loop, Program, Stmt
from opc.program.order import Node, Order, Part, Summary
from opc.program.pipes import pipe_of

Path = tuple[int, ...]  # statement numbers from the outermost body inwards
Pair = tuple[str, str]
Ends = tuple[int, str, int, str]  # source statement and its pipe, target statement and its pipe
Work = tuple[int, str, tuple[Touch, ...]]  # what a statement does on one pipe


@dataclass(frozen=True, slots=True)
class Flag:
    """Statement ``source`` on pipe ``first`` before statement ``target`` on pipe ``then``, ``distance``
    iterations later. A barrier when both pipes are one. ``ids``: how many event ids it cycles through.
    ``rest``: only from the second iteration of the target, a loop, on.
    """

    source: int
    first: str
    target: int
    then: str
    distance: int
    ids: int = 1
    rest: bool = False

    @property
    def pair(self) -> Pair:
        return self.first, self.then

    @property
    def is_barrier(self) -> bool:
        return self.first == self.then

    @property
    def set_point(self) -> Node:
        """What is earlier here is ordered."""
        return ("earlier", self.first, 2 * self.target if self.is_barrier else 2 * self.source + 1)

    @property
    def wait_point(self) -> Node:
        """What is later here is ordered."""
        return ("later", self.then, 2 * self.target)

    @property
    def room(self) -> int:
        """Least distance of a flag in the other direction: 0 if that one points forward."""
        return 0 if self.target < self.source else 1


@dataclass(frozen=True, slots=True)
class Tweak:
    """Ways to need fewer event ids in one body, in the order they are tried."""

    plain: bool = False  # flags in front of loops that one inside would make redundant
    joins: Mapping[Pair, int] = field(default_factory=dict)  # how many flags to join with another
    single: frozenset[Pair] = frozenset()  # one id per flag: give up running ahead
    full: frozenset[int] = frozenset()  # a barrier across all pipes before these statements


@dataclass(slots=True)
class Body:
    """A body with its flags. ``loops``: sequential loops around it, outermost first."""

    path: Path
    stmts: tuple[Stmt, ...]
    loops: tuple[Loop, ...]
    order: Order
    children: dict[int, Body]
    full: frozenset[int] = frozenset()
    flags: list[Flag] = field(default_factory=list)
    barriers: list[Flag] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        n = 1
        for loop in self.loops:
            n *= loop.extent
        return n

    def nest(self) -> Iterator[Body]:
        """This body and all inside it."""
        yield self
        for child in self.children.values():
            yield from child.nest()


class Solver:
    """Finds flags for the bodies of one program."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self.machine = machine
        self.table = program.table()
        self.known = Dependences(program, machine)
        self._needs: dict[Path, list[Flag]] = {}
        self._left: dict[Path, list[Ends]] = {}  # what bodies inside leave to this one

    def solve(
        self, stmts: tuple[Stmt, ...], around: tuple[Loop, ...], tweaks: dict[Path, Tweak], path: Path = ()
    ) -> Body:
        """The body with flags. ``around``: the loops outside, of which the first is parallel."""
        children = {
            j: self.solve(s.body, (*around, s), tweaks, (*path, j))
            for j, s in enumerate(stmts)
            if isinstance(s, Loop)
        }
        tweak = tweaks.get(path, Tweak())
        nodes = self._nodes(stmts)
        order = self._order(stmts, nodes, children, bool(path))
        for j in sorted(tweak.full):
            for p in order.pipes:
                for q in order.pipes:
                    order.add(("earlier", p, 2 * j), ("later", q, 2 * j))
        body = Body(path, stmts, around[1:], order, children, tweak.full)
        if path not in self._needs:
            self._needs[path] = self._dependent(stmts, nodes, around, path)
        needs = self._needs[path]
        chosen = _reduce(order, [replace(f, rest=False) for f in needs] if tweak.plain else needs)
        body.barriers = [f for f in chosen if f.is_barrier]
        flags = [f for f in chosen if not f.is_barrier]
        for f in flags:
            order.remove(f)
        flags = _join(flags, tweak.joins)
        if path:
            flags = _bound(order, flags, tweak.single, self.machine.event_ids, body.iterations)
        _place(order, flags)
        body.flags = flags
        return body

    def _nodes(self, stmts: tuple[Stmt, ...]) -> list[Work]:
        """(statement, pipe, what it touches there), one per pipe that a statement uses."""
        found = []
        for j, stmt in enumerate(stmts):
            by_pipe: dict[str, dict[Touch, None]] = {}
            for instr, inside in _inside(stmt, {}):
                touched = by_pipe.setdefault(pipe_of(instr, self.table, self.machine), {})
                touched.update(dict.fromkeys(instr_touches(instr, inside)))
            found += [(j, pipe, tuple(t)) for pipe, t in by_pipe.items()]
        return found

    def _order(
        self,
        stmts: tuple[Stmt, ...],
        nodes: list[Work],
        children: dict[int, Body],
        looped: bool,
    ) -> Order:
        summaries = {j: _summary(child) for j, child in children.items()}
        parts = [Part(tuple(p for i, p, _ in nodes if i == j), summaries.get(j)) for j in range(len(stmts))]
        pipes = [p for p in self.machine.pipes if any(p in part.pipes for part in parts)]
        order = Order(parts, pipes, self.machine.unordered_pipes, looped)
        for j, child in children.items():
            for inner in child.nest():
                for f in inner.flags:
                    if looped and f.distance == 1:
                        order.add(("leave", (inner.path, f), 0), ("enter", (inner.path, f), 0), 1)
                    elif not looped and f.distance and j:
                        # Primed just before the loop, after the statements above it.
                        order.add(("earlier", f.first, 2 * j - 1), ("enter", (inner.path, f), 0))
        return order

    def _dependent(
        self, stmts: tuple[Stmt, ...], nodes: list[Work], around: tuple[Loop, ...], path: Path
    ) -> list[Flag]:
        """The closest dependence of every two nodes that pipes do not order by themselves."""
        least = self._least(stmts, nodes, around, len(around) - 1)
        self._leave(stmts, nodes, around, path, least)
        least |= dict.fromkeys(self._left.get(path, ()), 1)
        touched = {(j, pipe): found for j, pipe, found in nodes}
        needs = []
        for (a, first, b, then), distance in least.items():
            rest = distance == 0 and not self._meets_first(touched[a, first], stmts[b], then, around)
            needs.append(Flag(a, first, b, then, distance, rest=rest))
        # Nearest pairs first: a flag from the last source before a target serves the earlier ones too.
        return sorted(
            _closest(needs, stmts), key=lambda f: (f.distance, f.target, -f.source, f.first, f.then)
        )

    def _least(
        self, stmts: tuple[Stmt, ...], nodes: list[Work], around: tuple[Loop, ...], carried: int
    ) -> dict[Ends, int]:
        """The least distance over iterations of the ``carried`` innermost loops."""
        least: dict[Ends, int] = {}
        # Inside an inner loop its own flags keep the order, across its executions too.
        groups = [j if isinstance(stmts[j], Loop) else None for j, _, _ in nodes]
        for d in self.known.between([t for _, _, t in nodes], around, carried, groups):
            a, first, _ = nodes[d.source]
            b, then, _ = nodes[d.target]
            if first != then or first in self.machine.unordered_pipes:
                key = (a, first, b, then)
                least[key] = min(d.distance, least.get(key, d.distance))
        return least

    def _leave(
        self,
        stmts: tuple[Stmt, ...],
        nodes: list[Work],
        around: tuple[Loop, ...],
        path: Path,
        least: dict[Ends, int],
    ) -> None:
        """Leave the nearest dependences to a body outside if only one execution of a loop there, after
        another, has them so near.

        After peeling, an execution does not start with the slot that comes after the last one's. Flags of
        that one distance would give up running ahead everywhere; a flag around the loop costs it once.
        """
        if self.machine.event_ids < 2:
            return
        outer: dict[Ends, Path] = {}
        for carried in range(len(around) - 2, 0, -1):
            near = {e for e, distance in least.items() if distance and e[1] != e[3]}
            ends = {(e[n], e[n + 1]) for e in near for n in (0, 2)}
            some = [node for node in nodes if node[:2] in ends]
            for e, distance in self._least(stmts, some, around, carried).items():
                if e in near and distance > least[e]:
                    least[e] = distance
                    outer[e] = path[: len(around) - 1 - carried]
        for (_, first, _, then), place in outer.items():
            j = path[len(place)]
            self._left.setdefault(place, []).append((j, first, j, then))

    def _meets_first(
        self, source: tuple[Touch, ...], stmt: Stmt, pipe: str, around: tuple[Loop, ...]
    ) -> bool:
        """Whether ``source`` conflicts with the first iteration of a later statement."""
        if isinstance(stmt, Instr):
            return True
        once = replace(stmt, extent=1)
        target = tuple(t for _, p, found in self._nodes((once,)) if p == pipe for t in found)
        return bool(self.known.between([source, target], around, 0))


def _closest(needs: Sequence[Flag], stmts: tuple[Stmt, ...]) -> list[Flag]:
    """Needs without those that another implies: between the same pipes, from no earlier to no later a statement.

    A flag is set after all earlier work of its pipe and holds back all later work of the other, so the
    closest pair speaks for the pairs around it. Loops only speak for themselves: flags inside may order them.
    """
    groups: dict[tuple[str, str, int], list[Flag]] = {}
    for need in needs:
        groups.setdefault((need.first, need.then, need.distance), []).append(need)
    kept: list[Flag] = []
    for group in groups.values():
        nearest = len(stmts)  # least target among pairs of instructions whose source comes later
        for source, same in groupby(sorted(group, key=lambda f: (-f.source, f.target)), lambda f: f.source):
            own = nearest
            for need in same:
                if need.target < own:
                    kept.append(need)
                if isinstance(stmts[need.target], Instr):
                    own = min(own, need.target)
                    if isinstance(stmts[source], Instr):
                        nearest = min(nearest, need.target)
    return kept


def _inside(stmt: Stmt, extents: dict[str, int]) -> Iterator[tuple[Instr, dict[str, int]]]:
    if isinstance(stmt, Instr):
        yield stmt, extents
        return
    for inner in stmt.body:
        yield from _inside(inner, {**extents, stmt.var: stmt.extent})


def _summary(body: Body) -> Summary:
    primed = [(body.path, f) for f in body.flags if f.distance]
    for name in primed:
        _, f = name
        body.order.add(("enter", name, 0), f.wait_point)
        body.order.add(f.set_point, ("leave", name, 0))
    return body.order.summary(primed)


def _place(order: Order, flags: Sequence[Flag]) -> None:
    order.remove("flag")
    for f in flags:
        order.add(f.set_point, f.wait_point, f.distance, "flag")


def _reduce(order: Order, needs: Sequence[Flag]) -> list[Flag]:
    """Flags and barriers that imply all of ``needs``, each of which some need cannot do without."""
    served: dict[Flag, list[Flag]] = {}
    for need in needs:
        if not _holds(order, need):
            edge = _edge(need)
            order.add(edge.set_point, edge.wait_point, edge.distance, edge)
            served.setdefault(edge, []).append(need)
    kept = dict.fromkeys(served)
    for edge in sorted(served, key=lambda f: (f.is_barrier, f.source - f.target, f.distance)):
        if all(_holds(order, need, edge) for need in served[edge]):
            order.remove(edge)
            del kept[edge]
    for need in needs:
        # Rarely an edge that went had also carried the need of another.
        if not _holds(order, need):
            edge = _edge(need)
            order.add(edge.set_point, edge.wait_point, edge.distance, edge)
            kept[edge] = None
    return list(kept)


def _edge(need: Flag) -> Flag:
    """A barrier stands before the later statement, in the same iteration."""
    need = replace(need, rest=False)
    return replace(need, source=need.target, distance=0) if need.is_barrier else need


def _holds(order: Order, need: Flag, without: Flag | None = None) -> bool:
    start: Node = ("work", need.first, need.source)
    end: Node = ("rest" if need.rest else "work", need.then, need.target)
    return order.distance(start, end, need.distance, without) is not None


def joinable(flags: Sequence[Flag], pair: Pair) -> tuple[Flag, Flag, Flag] | None:
    """Two flags of a pair and the one that can stand for both, moving set and wait the least."""
    same = [f for f in flags if f.pair == pair]
    best: tuple[int, Flag, Flag, Flag] | None = None
    for n, f in enumerate(same):
        for g in same[:n]:
            source, target = max(f.source, g.source), min(f.target, g.target)
            distance = min(f.distance, g.distance)
            if bool(f.distance) != bool(g.distance) or source == target or (not distance and source > target):
                continue
            moved = abs(f.source - g.source) + abs(f.target - g.target) + abs(f.distance - g.distance)
            if best is None or moved < best[0]:
                best = (moved, f, g, replace(f, source=source, target=target, distance=distance))
    return best[1:] if best is not None else None


def _join(flags: list[Flag], joins: Mapping[Pair, int]) -> list[Flag]:
    for pair, count in joins.items():
        for _ in range(count):
            found = joinable(flags, pair)
            if found is None:
                break
            f, g, both = found
            flags = [*(h for h in flags if h not in (f, g)), both]
    return flags


def _bound(
    order: Order, flags: list[Flag], single: frozenset[Pair], limit: int, iterations: int
) -> list[Flag]:
    """Flags with the number of ids each needs.

    A binary flag must be waited for before it is set again. Where nothing holds back the pipe that
    sets, and there are not ids enough for all iterations, a flag in the other direction is added that
    lets it run at most two iterations ahead.
    """

    def most_ids(f: Flag) -> int:
        # Around one statement a flag and the one back each take a step: never with a single id.
        return limit if f.pair not in single else 2 if f.source == f.target else 1

    def capped(f: Flag) -> Flag:
        return replace(f, distance=min(f.distance, most_ids(f) - f.room))

    def ahead(f: Flag) -> int | None:
        """How many iterations the set of a flag runs ahead of its wait."""
        most = most_ids(f)
        found = order.distance(f.wait_point, f.set_point, most - f.distance)
        if found is None and f.distance + iterations <= most:
            return iterations  # every set, the primed ones too, has an id of its own
        return found

    flags = list(dict.fromkeys(map(capped, flags)))
    _place(order, flags)
    for f in flags:  # grows as it goes
        if ahead(f) is None:
            most = most_ids(f)
            run = f.room if f.pair in single or f.distance else min(2, most)
            back = capped(Flag(f.target, f.then, f.source, f.first, run))
            assert back not in flags, "a flag back bounds the one it answers"
            flags.append(back)
            order.add(back.set_point, back.wait_point, back.distance, "flag")
    # Every flag back may have brought others nearer.
    counted = [(f, ahead(f)) for f in flags]
    return [replace(f, ids=f.distance + n) for f, n in counted if n is not None]
