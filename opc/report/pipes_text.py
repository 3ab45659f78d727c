"""A timeline drawn with characters: one line per pipe, one column per slice of time."""

from __future__ import annotations

from opc.report.tables import table
from opc.report.trace import TimelineLike, row

SHADES = " ▁▂▃▄▅▆▇█"
PLAIN = " .:-=+*#@"  # for terminals that cannot show blocks


def drawing(timeline: TimelineLike, start: float, end: float, width: int = 100, plain: bool = False) -> str:
    """The busy share of every pipe in ``width`` columns between two times (cycles), with an axis.

    A full column is busy throughout, a blank one idle; waiting for a flag counts as idle.
    """
    shares = {pipe: [0.0] * width for pipe in timeline.pipes}
    step = (end - start) / width
    for e in timeline.events():
        _add(shares[e.pipe], e.start - start, e.end - start, step)
    names = {pipe: row(pipe) for pipe in timeline.pipes}
    margin = max(map(len, names.values()))
    shades = PLAIN if plain else SHADES
    lines = [f"  {' ' * margin}  {_axis(start, end, width)}"]
    for pipe, columns in shares.items():
        drawn = "".join(_shade(share / step, shades) for share in columns)
        edge = "|" if plain else "▏"
        lines.append(f"  {names[pipe].ljust(margin)} {edge}{drawn}{edge} {sum(columns) / (end - start):6.1%}")
    return "\n".join(lines)


def _add(columns: list[float], start: float, end: float, step: float) -> None:
    """Add the cycles between ``start`` and ``end`` to the columns that they fall into."""
    first, last = max(0, int(start // step)), min(len(columns) - 1, int(end // step))
    for n in range(first, last + 1):
        columns[n] += max(0.0, min(end, (n + 1) * step) - max(start, n * step))


def _shade(share: float, shades: str) -> str:
    if share <= 0:
        return shades[0]
    return shades[min(len(shades) - 1, max(1, round(share * (len(shades) - 1))))]


def _axis(start: float, end: float, width: int) -> str:
    """Times in cycles, each at the column where it is."""
    line = ""
    for n in range(0, width, max(12, width // 8)):
        mark = f"|{start + (end - start) * n / width:,.0f}"
        line = line.ljust(n) + mark
    return line[: width + 1]


def stalls_table(timeline: TimelineLike, count: int = 5) -> str:
    """The waits that held pipes up longest, by instruction of the listing."""
    total: dict[tuple[str, str], tuple[int, float]] = {}
    for e in timeline.stalls():
        times, cycles = total.get((e.pipe, e.text), (0, 0.0))
        total[e.pipe, e.text] = (times + 1, cycles + e.end - e.start)
    worst = sorted(total.items(), key=lambda item: (-item[1][1], item[0]))[:count]
    rows = [(row(pipe), text, times, f"{cycles:,.0f}") for (pipe, text), (times, cycles) in worst]
    return table(("pipe", "waits at", "times", "cycles"), rows) if rows else ""
