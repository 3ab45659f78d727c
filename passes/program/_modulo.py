"""Modulo scheduling: one start time per statement, the same for every iteration of a loop."""

from __future__ import annotations

from collections.abc import Sequence

from opc.program.dependence import Dep
from opc.program.estimate import Estimator, Unit

ATTEMPTS = 48
DISPATCH = "dispatch"  # taken like a pipe: while a long loop fills its queues nothing else can start
GROWTH = 1.025  # how much longer the interval gets after a failed attempt

Stretches = tuple[tuple[str, float, float], ...]  # per pipe from when to when a statement holds it


def modulo_times(
    units: Sequence[Unit], deps: Sequence[Dep], estimator: Estimator, longest: float
) -> tuple[float, list[float]] | None:
    """(initiation interval, start times) of the shortest interval found below ``longest``.

    Iteration v starts v intervals later, on pipes that never hold two statements at once, with every
    dependence kept. None if no interval below ``longest`` works.
    """
    stretches = [(*u.pipes, (DISPATCH, 0.0, u.dispatch)) for u in units]
    waits = [(d.source, d.target, d.distance, estimator.wait(units, d)) for d in deps]
    busy: dict[str, float] = {}
    for p, begin, end in (s for unit in stretches for s in unit):
        busy[p] = busy.get(p, 0.0) + end - begin
    interval = max(busy.values(), default=0.0)
    for _ in range(ATTEMPTS):
        if interval >= longest or not interval:
            return None
        times = _attempt(stretches, waits, interval)
        if times is not None:
            return interval, times
        interval *= GROWTH
    return None


def _attempt(
    stretches: Sequence[Stretches], waits: Sequence[tuple[int, int, int, float]], interval: float
) -> list[float] | None:
    """Start times for this interval, placing statements once, in program order."""
    times: list[float] = []
    taken: dict[str, list[tuple[float, float]]] = {}
    for j, pipes in enumerate(stretches):
        low, high = 0.0, float("inf")
        for source, target, distance, wait in waits:
            if target == j and source < j:
                low = max(low, times[source] + wait - distance * interval)
            elif source == j and target < j:
                high = min(high, times[target] + distance * interval - wait)
            elif source == target == j and wait > distance * interval:
                return None
        at = _fit(pipes, low, taken, interval)
        if at is None or at > high:
            return None
        times.append(at)
        for p, begin, end in pipes:
            taken.setdefault(p, []).append(((at + begin) % interval, end - begin))
    return times


def _fit(
    pipes: Stretches, low: float, taken: dict[str, list[tuple[float, float]]], interval: float
) -> float | None:
    """The earliest start from ``low`` on at which all pipes are free; starts repeat after an interval."""
    starts = [low]
    for p, begin, _ in pipes:
        for other, length in taken.get(p, ()):
            starts.append(low + (other + length - begin - low) % interval)
    for at in sorted(starts):
        if all(
            _apart((at + begin) % interval, end - begin, other, length, interval)
            for p, begin, end in pipes
            for other, length in taken.get(p, ())
        ):
            return at
    return None


def _apart(a: float, a_length: float, b: float, b_length: float, interval: float) -> bool:
    """Whether two stretches of a circle of length ``interval`` do not overlap."""
    slack = 1e-6 * interval
    return a_length <= (b - a) % interval + slack and b_length <= (a - b) % interval + slack
