"""The figures of schedules as text: bounds, makespans, optima, intervals, pressure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opc.program.demand import Demand
from opc.program.reorder import Body
from opc.report.tables import table
from opc.schedule.modulo import recurrence_bound, resource_bound
from opc.schedule.problem import bounds, makespan, rate


@dataclass(frozen=True)
class Solved:
    """What the solver says of one body, in cycles: the best makespan known, and what no order beats."""

    listed: float
    best: float
    bound: float
    closed: bool

    @property
    def gap(self) -> float:
        """How much longer the list schedule is than the best order known."""
        return self.listed / self.best - 1 if self.best else 0.0


def orders_table(bodies: Sequence[Body]) -> str:
    """One iteration of each body: bounds and makespans."""
    rows = []
    for b in bodies:
        limits = bounds(b.problem)
        source, listed = makespan(b.problem, range(len(b.stmts))), makespan(b.problem, b.order)
        busiest = f"{limits.pipes[limits.busiest]:,.0f} {limits.busiest}"
        figures = (f"{limits.critical:,.0f}", f"{source:,.0f}", f"{listed:,.0f}")
        rows.append((b.name, len(b.stmts), busiest, *figures, f"{max(0.0, listed / limits.least - 1):.1%}"))
    header = (
        "body",
        "statements",
        "busiest pipe",
        "longest path",
        "source order",
        "this order",
        "over bound",
    )
    title = "  cycles of one iteration of each body: two lower bounds, two makespans\n"
    return title + table(header, rows) if rows else "  no body has two statements to order"


def optima_table(bodies: Sequence[Body], solved: Sequence[Solved]) -> str:
    """What the solver found, and how far the list schedules are from it."""
    if not solved:
        return ""
    rows = []
    for b, s in zip(bodies, solved, strict=True):
        figures = (f"{s.listed:,.2f}", f"{s.best:,.2f}", f"{s.bound:,.2f}")
        rows.append((b.name, *figures, f"{s.gap:.1%}", "yes" if s.closed else "no"))
    header = ("body", "this order", "best known", "bound", "gap", "closed")
    gaps = [s.gap for s in solved if s.closed]
    mean, worst = (sum(gaps) / len(gaps), max(gaps)) if gaps else (0.0, 0.0)
    title = "  CP-SAT on the same problems, every figure rounded to a quarter of a cycle\n"
    last = f"  closed {len(gaps)} of {len(solved)}: gap {mean:.1%} in the mean, {worst:.1%} at worst"
    return f"{title}{table(header, rows)}\n{last}"


@dataclass(frozen=True)
class Paced:
    """A loop before it is pipelined: the interval of its modulo schedule (None: no overlap pays), and what the
    solver says of it if it was asked: the shortest known, and what none is shorter than.
    """

    loop: Body
    interval: float | None
    shortest: float | None = None
    bound: float | None = None


def intervals_table(loops: Sequence[Paced]) -> str:
    """Cycles from one iteration to the next: what is needed, what the modulo schedule and source order reach."""
    rows = []
    for p in loops:
        problem = p.loop.problem
        busiest, pipe = resource_bound(problem)
        least = (f"{busiest:,.1f} {pipe}", f"{recurrence_bound(problem):,.1f}")
        source = f"{rate(problem, range(len(problem))):,.1f}"
        figures = ["-" if x is None else f"{x:,.1f}" for x in (p.interval, p.shortest, p.bound)]
        asked = any(q.shortest is not None for q in loops)
        rows.append((p.loop.name, *least, source, *figures[: 3 if asked else 1]))
    header = ("loop", "ResMII", "RecMII", "source order", "modulo schedule", "shortest known", "none below")
    title = "  cycles from one iteration to the next, before pipelining\n"
    return title + table(header[: len(rows[0])], rows) if rows else ""


def demand_text(demand: Demand) -> str:
    """Pressure on memories and event ids, and what did not fit."""
    lines = []
    if demand.spaces:
        rows = [(s.name, s.used, s.capacity, f"{s.used / s.capacity:.0%}") for s in demand.spaces]
        lines.append(table(("space", "bytes used", "capacity", "share"), rows))
    if demand.ids:
        ids = [
            (f"{i.source} -> {i.target}", "-" if i.wanted is None else i.wanted, i.there, i.used)
            for i in demand.ids
        ]
        lines.append(table(("event ids", "wanted", "there", "used"), ids))
    return "\n".join([*lines, *shortages(demand)])


def shortages(demand: Demand) -> list[str]:
    """A line for each thing that did not fit, and what would have to shrink."""
    lines = []
    missing = {s.name: s.missing for s in demand.spaces}
    for s in demand.slots:
        if s.given < s.wanted:
            lines.append(
                f"  '{s.buffer}' has {s.given} of {s.wanted} slots of {s.size} bytes: with all that are wanted "
                f"'{s.space}' would be {missing[s.space]} bytes too small, so its tiles would have to shrink"
            )
    for i in demand.ids:
        if i.short:
            lines.append(
                f"  {i.source} -> {i.target} has {i.there} of {i.wanted} event ids: "
                "flags were joined or do not run ahead"
            )
    if demand.barriers:
        lines.append(
            f"  {demand.barriers} barriers across all pipes, where ids ran out or iterations of a core meet"
        )
    return lines
