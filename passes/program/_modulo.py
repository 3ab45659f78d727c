"""Modulo scheduling: one start time per statement, the same for every iteration of a loop."""

from __future__ import annotations

from collections.abc import Sequence

from opc.program.dependence import Dep
from opc.program.estimate import Estimator, Unit

ATTEMPTS = 24
GROWTH = 1.08  # how much longer the interval gets after a failed attempt


def modulo_times(
    units: Sequence[Unit], deps: Sequence[Dep], estimator: Estimator, longest: float
) -> tuple[float, list[float]] | None:
    """(initiation interval, start times) of the shortest interval found below ``longest``.

    Iteration v starts v intervals later, on pipes that never hold two statements at once, with every
    dependence kept. None if no interval below ``longest`` works.
    """
    waits = [(d.source, d.target, d.distance, _wait(units, d, estimator)) for d in deps]
    names = sorted({n for u in units for n in u.names})
    interval = max((sum(u.busy(p) for u in units) for p in names), default=0.0)
    for _ in range(ATTEMPTS):
        if interval >= longest or not interval:
            return None
        times = _attempt(units, waits, interval)
        if times is not None:
            return interval, times
        interval *= GROWTH
    return None


def _wait(units: Sequence[Unit], d: Dep, estimator: Estimator) -> float:
    """Least time between the starts of two dependent statements; pipes keep the rest."""
    source = units[d.source]
    if not estimator.covered(units, d):
        return source.latency
    return 0.0 if d.source == d.target else source.pipes[0][2]


def _attempt(
    units: Sequence[Unit], waits: Sequence[tuple[int, int, int, float]], interval: float
) -> list[float] | None:
    """Start times for this interval, placing statements once, in program order."""
    times: list[float] = []
    taken: dict[str, list[tuple[float, float]]] = {}
    for j, unit in enumerate(units):
        low, high = 0.0, float("inf")
        for source, target, distance, wait in waits:
            if target == j and source < j:
                low = max(low, times[source] + wait - distance * interval)
            elif source == j and target < j:
                high = min(high, times[target] + distance * interval - wait)
            elif source == target == j and wait > distance * interval:
                return None
        at = _fit(unit, low, taken, interval)
        if at is None or at > high:
            return None
        times.append(at)
        for p, begin, end in unit.pipes:
            taken.setdefault(p, []).append(((at + begin) % interval, end - begin))
    return times


def _fit(
    unit: Unit, low: float, taken: dict[str, list[tuple[float, float]]], interval: float
) -> float | None:
    """The earliest start from ``low`` on at which all pipes are free; starts repeat after an interval."""
    starts = [low]
    for p, begin, _ in unit.pipes:
        for other, length in taken.get(p, ()):
            starts.append(low + (other + length - begin - low) % interval)
    for at in sorted(starts):
        if all(
            _apart((at + begin) % interval, end - begin, other, length, interval)
            for p, begin, end in unit.pipes
            for other, length in taken.get(p, ())
        ):
            return at
    return None


def _apart(a: float, a_length: float, b: float, b_length: float, interval: float) -> bool:
    """Whether two stretches of a circle of length ``interval`` do not overlap."""
    slack = 1e-6 * interval
    return a_length <= (b - a) % interval + slack and b_length <= (a - b) % interval + slack
