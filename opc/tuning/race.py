"""Timing rivals in turn, so that a change of clock or a noisy neighbour meets all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Clock = Callable[[], float]
SECONDS = 1.0
_BURST = 2e-3  # seconds of one turn: long enough to bring a rival's own weights back to the caches
_CALLS = 50  # most calls of a turn
_LEAST, _MOST = 3, 200  # rounds
# Rivals whose best time is this much over the best of all after so many rounds are out.
_OUT = ((3, 1.15), (6, 1.06))


def race(
    calls: Mapping[str, Callable[[], object]], seconds: float = SECONDS, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Times of single calls of each rival, for about ``seconds`` altogether; clear losers leave early."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    turns = {name: _turn(call, clock) for name, call in calls.items()}
    alive = list(calls)
    end, rounds = clock() + seconds, 0
    while rounds < _MOST and (rounds < _LEAST or (clock() < end and len(alive) > 1)):
        for name in alive:
            calls[name]()  # the others have used the caches since
            for _ in range(turns[name]):
                start = clock()
                calls[name]()
                times[name].append(clock() - start)
        rounds += 1
        alive = _still_in(alive, times, rounds)
    return times


def _turn(call: Callable[[], object], clock: Clock) -> int:
    """Calls of a turn, after two to warm up."""
    call()
    start = clock()
    call()
    took = clock() - start
    return max(1, min(_CALLS, int(_BURST / took) if took > 0 else _CALLS))


def _still_in(alive: Sequence[str], times: Mapping[str, Sequence[float]], rounds: int) -> list[str]:
    factor = min((f for after, f in _OUT if rounds >= after), default=None)
    if factor is None:
        return list(alive)
    best = min(min(times[name]) for name in alive)
    return [name for name in alive if min(times[name]) <= best * factor]


def score(times: Sequence[float]) -> float:
    """What rivals are ranked by: the best time alone is luck, the median alone is the neighbours'."""
    return math.sqrt(min(times) * statistics.median(times))
