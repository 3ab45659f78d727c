"""Random dependence graphs such as kernels have: five in-order pipes, realistic times, several shapes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

from opc.schedule.problem import Edge, Problem, Task

# Per pipe: share of the instructions, least and largest occupancy, cycles from the end of it to its results.
MIXES = {
    "cube": {
        "MTE2": (2, 20, 300, 105),
        "MTE1": (4, 8, 80, 2),
        "M": (3, 16, 130, 23),
        "V": (2, 8, 120, 24),
        "MTE3": (1, 16, 200, 49),
    },
    "vector": {"MTE2": (2, 30, 400, 105), "V": (6, 6, 120, 24), "MTE3": (1, 40, 500, 49)},
    "two_roles": {
        "MTE2": (2, 20, 300, 105),
        "MTE1": (2, 8, 80, 2),
        "M": (1, 60, 300, 23),
        "V": (5, 8, 140, 24),
        "MTE3": (2, 16, 200, 49),
    },
}
UNORDERED = frozenset({"V", "MTE2", "MTE3"})
SYNC = 1


def graph(seed: int, least: int = 30, most: int = 300) -> tuple[str, Problem]:
    """(name, problem) number ``seed``: the same for the same seed."""
    random = Random(seed)
    mix = random.choice(sorted(MIXES))
    shape = random.choice(sorted(SHAPES))
    count = random.randint(least, most)
    tasks = tuple(_task(random, mix) for _ in range(count))
    pairs = SHAPES[shape](random, count)
    edges = tuple(Edge(s, t, _wait(tasks[s], tasks[t])) for s, t in sorted(pairs))
    return f"{shape}/{mix}/{count}", Problem(tasks, edges)


def _task(random: Random, mix: str) -> Task:
    table = MIXES[mix]
    (pipe,) = random.choices(list(table), [row[0] for row in table.values()])
    _, least, most, latency = table[pipe]
    # Most instructions are short, some are long.
    busy = int(least * (most / least) ** random.random())
    return Task(((pipe, 0, busy),), busy + latency, 1)


def _wait(source: Task, target: Task) -> float:
    """As the estimator charges it: a flag between pipes, a barrier in an unordered one."""
    if source.pipes[0][0] != target.pipes[0][0]:
        return source.latency + 2 * SYNC
    return source.latency + SYNC if source.pipes[0][0] in UNORDERED else 0


def _layered(random: Random, count: int) -> set[tuple[int, int]]:
    width = random.randint(3, 20)
    layers = [range(n, min(n + width, count)) for n in range(0, count, width)]
    found = set()
    for upper, lower in pairwise(layers):
        for t in lower:
            found |= {(s, t) for s in random.sample(upper, min(len(upper), random.randint(1, 3)))}
    return found


def _series_parallel(random: Random, count: int) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()

    def build(low: int, high: int) -> tuple[list[int], list[int]]:
        """Sources and sinks of the tasks from ``low`` up to ``high``."""
        if high - low == 1:
            return [low], [low]
        middle = random.randint(low + 1, high - 1)
        first, second = build(low, middle), build(middle, high)
        joined = len(first[1]) * len(second[0]) <= 16 and random.random() < 0.6
        if not joined:
            return first[0] + second[0], first[1] + second[1]
        found.update((s, t) for s in first[1] for t in second[0])
        return first[0], second[1]

    build(0, count)
    return found


def _random(random: Random, count: int) -> set[tuple[int, int]]:
    reach = random.randint(10, 60)
    found = set()
    for t in range(1, count):
        nearby = range(max(0, t - reach), t)
        found |= {(s, t) for s in random.sample(nearby, min(len(nearby), random.randint(0, 3)))}
    return found


def _chains(random: Random, count: int) -> set[tuple[int, int]]:
    """Tiles: chains beside each other, some of which meet."""
    length = random.randint(4, 12)
    found = {(n - 1, n) for n in range(1, count) if n % length}
    for _ in range(count // length):
        s, t = sorted(random.sample(range(count), 2))
        found.add((s, t))
    return found


SHAPES: dict[str, Callable[[Random, int], set[tuple[int, int]]]] = {
    "layered": _layered,
    "series-parallel": _series_parallel,
    "random": _random,
    "chains": _chains,
}
