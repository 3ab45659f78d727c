"""Fits the figures of a machine to measured instruction times.

Every vector operation gets a slope, a fixed part and a floor; an element type gets its own where the others'
are off. Every path gets its rate and a curve of a few points; the cube its issue and block cycles.
Heads and tails, which no table of instructions run back to back can show, stay as the machine has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import median

from opc.machine.model import Machine, Route, VectorCost
from opc.program.cost import vector_cost, vector_model
from opc.program.measured import OPERATIONS, Row, cube_blocks, route_of

_KNOTS = 6  # points of a curve
_GAIN = 0.8  # a further point must leave at most this share of the error
_NOISE = 0.005  # mean relative error that needs no further figure
_POINTS = 3  # rows that a fit needs
Point = tuple[float, float]


def fit(rows: Sequence[Row], machine: Machine) -> Machine:
    """The machine with its figures fitted to rows of one campaign."""
    scale = machine.clock_mhz / (machine.measured.clock_mhz or machine.clock_mhz)
    rows = [replace(r, cycles=r.cycles * scale) for r in rows]
    routes = tuple(_route(r, rows, machine) for r in machine.routes)
    return replace(_cube(rows, machine), routes=routes, vector_costs=_vector(rows, machine))


def halves(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Every second row of each table by size, and the others: one half to fit, the other to test."""
    tables: dict[tuple[str, tuple[str, str]], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.instruction, row.types), []).append(row)
    ordered = [sorted(t, key=lambda r: r.amount) for t in tables.values()]
    return [r for t in ordered for r in t[::2]], [r for t in ordered for r in t[1::2]]


def _cube(rows: Sequence[Row], machine: Machine) -> Machine:
    points = [(cube_blocks(r, machine), r.cycles) for r in rows if r.instruction == "mmad"]
    if len(points) < _POINTS:
        return machine
    slope, fixed = _line(points)
    return replace(machine, cube_block=_digits(slope), cube_issue=_digits(max(0.0, fixed)))


def _vector(rows: Sequence[Row], machine: Machine) -> dict[str, VectorCost]:
    tables: dict[str, dict[tuple[str, str], list[Point]]] = {}
    for row in rows:
        if row.instruction in OPERATIONS:
            types = tables.setdefault(OPERATIONS[row.instruction], {})
            types.setdefault(row.types, []).append((row.amount / machine.vector_bytes, row.cycles))
    starts = [points for types in tables.values() for points in types.values()]
    least = min((min(p)[1] for p in starts if min(p)[0] == 1), default=1.0)
    found = {"default": machine.vector_costs["default"]}
    found |= {k: v for k, v in machine.vector_costs.items() if k.split(".")[0] not in tables}
    for operation, types in tables.items():
        found |= _operation(operation, types, machine, _digits(least))
    return found


def _operation(
    operation: str, types: dict[tuple[str, str], list[Point]], machine: Machine, least: float
) -> dict[str, VectorCost]:
    """The figures of the type that suit all types best, and those of each type that they are far off for.
    ``least``: the floor where a table has no row short enough to show one.
    """
    everything = [p for points in types.values() for p in points]
    own = {
        t: _repeats(points, vector_model(machine, operation, *t), least)
        for t, points in types.items()
        if len(points) >= _POINTS
    }
    if not own:
        return {}
    common = min(own.values(), key=lambda cost: _error(cost, everything))
    found = {operation: common}
    for (source, result), cost in own.items():
        points = types[source, result]
        if _error(cost, points) < _error(common, points) - _NOISE:
            found[".".join((operation, source, *((result,) if result != source else ())))] = cost
    return found


def _repeats(points: Sequence[Point], old: VectorCost, least: float) -> VectorCost:
    """Slope, fixed part and floor, by medians: a few wild points change nothing."""
    slope, fixed = _line(points)
    line = replace(old, slope=_digits(slope), fixed=_digits(fixed) if fixed > slope / 4 else 0.0, floor=least)
    floors = [replace(line, floor=_digits(c)) for _, c in sorted(points)[: max(4, len(points) // 2)]]
    best = min(floors, key=lambda c: _error(c, points))
    # A floor as high as the shortest row there is explains that row, and says nothing of shorter ones.
    return best if _error(best, points) < _error(line, points) - _NOISE else line


def _error(cost: VectorCost, points: Sequence[Point]) -> float:
    """Mean relative error, each point's at most 1."""
    return sum(min(1.0, abs(vector_cost(cost, x).occupancy / y - 1)) for x, y in points) / len(points)


def _line(points: Sequence[Point]) -> tuple[float, float]:
    """(slope, cycles at nothing) by the median of all pairs of points."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
    slope = median(slopes) if slopes else points[0][1] / points[0][0]
    return slope, median(y - slope * x for x, y in points)


def _route(route: Route, rows: Sequence[Row], machine: Machine) -> Route:
    points = sorted((r.amount, r.cycles) for r in rows if route_of(r, machine) is route)
    if len(points) < _POINTS:
        return route
    slope, _ = _line(points[len(points) // 2 :])
    rate = route.units * _digits(1 / slope) if slope > 0 else route.bandwidth
    curve = tuple((route.units * size, cycles) for size, cycles in _curve(points))
    return replace(route, bandwidth=rate, curve=curve)


def _curve(points: Sequence[Point]) -> tuple[Point, ...]:
    """A few sizes and their cycles. The next size is the one that leaves the least error."""
    sizes = sorted({x for x, _ in points})
    knots = [sizes[0], sizes[-1]]
    best, error = _heights(knots, points)
    while error > len(points) * _NOISE**2 and len(knots) < min(_KNOTS, len(sizes) // 2):
        tries = [sorted([*knots, x]) for x in sizes if x not in knots]
        (heights, left), chosen = min(((_heights(t, points), t) for t in tries), key=lambda t: t[0][1])
        if left > _GAIN * error:
            break
        knots, best, error = chosen, heights, left
    rising = [max(best[: i + 1]) for i in range(len(best))]
    return tuple((x, _digits(y)) for x, y in zip(knots, rising, strict=True))


def _heights(knots: Sequence[float], points: Sequence[Point]) -> tuple[list[float], float]:
    """Cycles at the knots by least squares of the relative errors, and their sum."""
    import numpy as np

    x, y = np.array(points).T
    basis = np.array([np.interp(x, knots, row) for row in np.eye(len(knots))]).T / y[:, None]
    heights = np.linalg.lstsq(basis, np.ones(len(x)), rcond=None)[0]
    return [float(h) for h in heights], float(((basis @ heights - 1) ** 2).sum())


def _digits(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def figures(machine: Machine) -> str:
    """The fitted figures as a machine file has them."""
    lines = ["[cube]", f"issue = {machine.cube_issue:g}", f"block_cycles = {machine.cube_block:g}"]
    for r in machine.routes:
        if r.curve:
            curve = ", ".join(f"[{x / r.units:.0f}, {y:g}]" for x, y in r.curve)
            rate = r.bandwidth / r.units
            lines += ["", f"# {r.source} to {r.target}", f"bandwidth = {rate:g}", f"curve = [{curve}]"]
    lines += ["", "[vector.cost]"]
    for name, c in machine.vector_costs.items():
        key = f'"{name}"' if "." in name else name
        lines.append(f"{key} = [{c.head:g}, {c.slope:g}, {c.tail:g}, {c.floor:g}, {c.fixed:g}]")
    return "\n".join(lines) + "\n"
