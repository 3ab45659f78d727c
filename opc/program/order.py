"""What happens before what in one body, from in-order pipes, flags and barriers.

Statement ``j`` of a body lies between point ``2j`` (waits and barriers stand there) and point ``2j + 1``
(sets stand there). Every pipe has two chains of nodes over these points:

    earlier(p, k)   everything on pipe p before point k has finished
    later(p, k)     nothing on pipe p after point k has started yet

so "x happens before later(p, k)" means x precedes all that p runs after k. On an ordered pipe the first
implies the second; on an unordered one only a wait or a barrier leads from work to later work. A loop
closes the chains with edges of distance 1, and distances add along a path: x of iteration v precedes y of
iteration v + distance. An inner loop takes part through a ``Summary`` of what holds across it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

Node = tuple[str, Hashable, int]  # kind, pipe or flag, point
End = tuple[str, Hashable]  # ("later" | "earlier" | "work" | "rest", pipe) or ("enter" | "leave", flag)


@dataclass(frozen=True, slots=True)
class Summary:
    """Which ends of a loop are ordered within one execution of it, whatever its trip count.

    "enter" is the first wait of a primed flag inside, "leave" the last set of one; "work" is all that
    a pipe does, "rest" what it does from the second iteration on.
    """

    edges: tuple[tuple[End, End], ...]
    flags: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One statement: the pipes it uses, and for a loop its summary."""

    pipes: tuple[str, ...]
    summary: Summary | None = None


class Order:
    """The happens-before graph of a body; ``looped`` if the body repeats."""

    def __init__(
        self, parts: Sequence[Part], pipes: Sequence[str], unordered: Collection[str], looped: bool
    ) -> None:
        self.parts, self.pipes, self.points = parts, pipes, 2 * len(parts)
        self._looped, self._unordered = looped, unordered
        self._numbers: dict[Node, int] = {}
        self._next: list[list[tuple[int, int, Hashable]]] = []
        self._place: list[
            float
        ] = []  # where in the body each node lies; edges of distance 0 lead no way back
        self._labelled: dict[Hashable, list[int]] = {}
        for p in pipes:
            self._chain(p)
        for j, part in enumerate(parts):
            self._statement(j, part)

    def _chain(self, p: str) -> None:
        for k in range(self.points):
            if p in self._unordered:
                self.add(("later", p, k), ("earlier", p, k))
            for kind in ("later", "earlier"):
                if k + 1 < self.points:
                    self.add((kind, p, k), (kind, p, k + 1))
                elif self._looped:
                    self.add((kind, p, k), (kind, p, 0), 1)

    def _statement(self, j: int, part: Part) -> None:
        for p in part.pipes:
            self.add(("later", p, 2 * j), ("work", p, j))
            self.add(("work", p, j), ("earlier", p, 2 * j + 1))
            # What comes before all work comes before the rest of it; nothing starts from this node.
            self.add(("work", p, j), ("rest", p, j))
        if part.summary is None:
            return
        for (kind, name), (end, other) in part.summary.edges:
            source = (kind, name, _point(kind, j, 2 * j))
            self.add(source, (end, other, _point(end, j, 2 * j + 1)))

    def _number(self, node: Node) -> int:
        # On an ordered pipe all that is earlier has finished before anything later starts.
        if node[0] == "later" and node[1] not in self._unordered:
            node = ("earlier", node[1], node[2])
        number = self._numbers.setdefault(node, len(self._next))
        if number == len(self._next):
            self._next.append([])
            self._place.append(_place(node))
        return number

    def add(self, source: Node, target: Node, distance: int = 0, label: Hashable = None) -> None:
        """An edge; ``label`` lets a search leave it out."""
        a, b = self._number(source), self._number(target)
        if a != b or distance:
            self._next[a].append((b, distance, label))
            if label is not None:
                self._labelled.setdefault(label, []).append(a)

    def remove(self, label: Hashable) -> None:
        """Drop the edges with this label."""
        for n in self._labelled.pop(label, ()):
            self._next[n] = [e for e in self._next[n] if e[2] != label]

    def distance(self, source: Node, target: Node, limit: int, without: Hashable = None) -> int | None:
        """Least distance of a path of at least one edge, None if none is within ``limit``."""
        goal = self._number(target)
        found = self._search(self._number(source), limit, without, goal)[goal]
        return found if found <= limit else None

    def reach(self, source: Node, limit: int = 0) -> Reached:
        """What ``source`` precedes at most ``limit`` iterations later."""
        return Reached(self, self._search(self._number(source), limit, None, -1), limit)

    def _search(self, source: int, limit: int, without: Hashable, goal: int) -> list[int]:
        """Least distance to each node (more than ``limit`` if farther), complete only for ``goal`` if given."""
        best = [limit + 1] * len(self._next)
        queue = deque([(source, 0)])
        place = self._place
        last = place[goal] if goal >= 0 else inf
        while queue:
            node, at = queue.popleft()
            if best[node] < at:
                continue
            if node == goal and best[goal] == at:
                break
            for target, distance, label in self._next[node]:
                total = at + distance
                if best[target] <= total or (label is not None and label == without):
                    continue
                if total == limit and place[target] > last:
                    continue  # past the goal, with no iteration left to come round again
                best[target] = total
                # Distance 0 goes first, so that nodes settle in order.
                if distance:
                    queue.append((target, total))
                else:
                    queue.appendleft((target, total))
        return best

    def summary(self, flags: Sequence[Hashable]) -> Summary:
        """This body as a loop seen from outside; ``flags`` are the primed flags of the body itself."""
        inside = [f for part in self.parts if part.summary for f in part.summary.flags]
        names = (*flags, *inside)
        work = {p: [j for j, part in enumerate(self.parts) if p in part.pipes] for p in self.pipes}
        edges: list[tuple[End, End]] = []
        starts: list[tuple[End, Node]] = [
            *((("later", p), ("later", p, 0)) for p in self.pipes),
            *((("earlier", p), ("earlier", p, 0)) for p in self.pipes),
            *((("enter", f), ("enter", f, 0)) for f in names),
        ]
        for end, node in starts:
            seen = self.reach(node)
            for q, js in work.items():
                if js and all(("work", q, j) in seen for j in js):
                    edges.append((end, ("work", q)))
            soon = self.reach(node, 1)
            for q, js in work.items():
                if js and all(("work", q, j) in soon for j in js):
                    edges.append((end, ("rest", q)))
            edges += [(end, other) for other in self._ends(seen, names)]
        for p, js in work.items():
            if js:
                # What the last instruction precedes, earlier ones of its pipe do too; loops speak for themselves.
                telling = [j for j in js if j == js[-1] or self.parts[j].summary is not None]
                common = [set(self._ends(self.reach(("work", p, j)), names)) for j in telling]
                edges += [(("work", p), e) for e in sorted(set.intersection(*common), key=repr)]
        kept = [(a, b) for a, b in edges if not (a[0] == b[0] and a[1] == b[1])]
        return Summary(tuple(kept), tuple(names))

    def _ends(self, seen: Reached, names: Sequence[Hashable]) -> Iterator[End]:
        for q in self.pipes:
            for kind in ("later", "earlier"):
                if (kind, q, self.points - 1) in seen:
                    yield kind, q
        for f in names:
            if ("leave", f, 0) in seen:
                yield "leave", f


def _place(node: Node) -> float:
    kind, _, k = node
    if kind in ("work", "rest"):
        return 2 * k + 0.5
    return k if kind in ("earlier", "later") else -1.0 if kind == "enter" else inf


def _point(kind: str, j: int, point: int) -> int:
    if kind in ("work", "rest"):
        return j
    return point if kind in ("later", "earlier") else 0


class Reached:
    """The nodes that a node precedes."""

    def __init__(self, order: Order, distances: list[int], limit: int) -> None:
        self._order, self._distances, self._limit = order, distances, limit

    def __contains__(self, node: Node) -> bool:
        number = self._order._number(node)
        return number < len(self._distances) and self._distances[number] <= self._limit
