"""Small random scheduling problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from opc.schedule.problem import Edge, Problem, Task

PIPES = ("A", "B", "C")


@st.composite
def tasks(draw: st.DrawFn, loops: bool, dispatch: float) -> Task:
    length = draw(st.integers(1, 9))
    pipes = [(draw(st.sampled_from(PIPES)), 0.0, float(length))]
    holds = loops and draw(st.integers(0, 3)) == 0
    if holds:  # a loop: several pipes, each for a part of it
        others = [p for p in PIPES if p != pipes[0][0]]
        begin = draw(st.integers(0, 4))
        pipes.append((draw(st.sampled_from(others)), float(begin), float(begin + draw(st.integers(1, 9)))))
    latency = max(e for _, _, e in pipes) + draw(st.integers(0, 6))
    return Task(tuple(pipes), latency, dispatch + (draw(st.integers(0, 3)) if holds else 0), holds)


@st.composite
def problems(draw: st.DrawFn, most: int = 8, loops: bool = True, carried: bool = False) -> Problem:
    """A problem whose edges wait for results, or for nothing where one pipe runs both ends."""
    found = draw(st.lists(tasks(loops, 1.0), min_size=1, max_size=most))
    edges = []
    for t in range(len(found)):
        for s in range(t):
            if draw(st.integers(0, 2)) == 0:
                same = found[s].pipes[0][0] == found[t].pipes[0][0]
                edges.append(Edge(s, t, 0.0 if same and draw(st.booleans()) else found[s].latency))
    if carried:
        index = st.integers(0, len(found) - 1)
        for _ in range(draw(st.integers(0, 3))):
            s, t = draw(index), draw(index)
            edges.append(Edge(s, t, found[s].latency, draw(st.integers(1, 3))))
    return Problem(tuple(found), tuple(edges))


def orders(problem: Problem) -> Iterator[list[int]]:
    """Every order that keeps the edges."""

    def extend(order: list[int], waiting: list[int]) -> Iterator[list[int]]:
        if len(order) == len(problem):
            yield order
            return
        for j, count in enumerate(waiting):
            if count == 0 and j not in order:
                left = list(waiting)
                for t, _ in problem.after[j]:
                    left[t] -= 1
                yield from extend([*order, j], left)

    return extend([], [len(b) for b in problem.before])


def keeps_edges(problem: Problem, order: Sequence[int]) -> bool:
    place = {j: n for n, j in enumerate(order)}
    return sorted(order) == list(range(len(problem))) and all(
        place[e.source] < place[e.target] for e in problem.edges if e.distance == 0
    )
