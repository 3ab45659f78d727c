"""``opc schedule FILE.k``: how good the order of every body is, beside lower bounds and the optimum."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from opc import driver
from opc.commands.options import Job, Refusals, add_numerics, add_source, jobs, source
from opc.errors import RuntimeCallError, fail
from opc.program.reorder import Body
from opc.report.schedule_text import Paced, Solved, demand_text, intervals_table, optima_table, orders_table
from opc.schedule.interval import shortest
from opc.schedule.modulo import modulo_schedule, recurrence_bound, resource_bound
from opc.schedule.optimal import GRID, on_grid, optimum, solver
from opc.schedule.problem import bounds, duration, makespan


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    parser.add_argument("--machine", metavar="NAME|FILE.toml", help="an NPU instead of the default one")
    add_numerics(parser)
    parser.add_argument("--optimal", action="store_true", help="ask OR-Tools CP-SAT for the optimum")
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, metavar="S", help="per body, for --optimal (default: 60)"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a time")
    return value


def run(options: argparse.Namespace) -> int:
    """Schedule every job and report. Raises RuntimeCallError E0926 for a CPU, E0932 without the solver."""
    if options.optimal:
        solver()
    options.target = "npu" if options.machine is None else None
    if options.machine is not None:
        machine = driver.target_machine("", options.machine)
        if machine.kind != "npu":
            message = f"machine '{machine.name}' is of kind {machine.kind}, not npu"
            help = "opc schedule looks at pipes that have queues: leave out --machine, or name an NPU"
            raise fail(RuntimeCallError, "E0926", message, help=help)
    refusals = Refusals(required=False, as_json=options.json)
    reports: list[dict[str, Any]] = []
    for job in jobs(options, source(options)):

        def report(job: Job = job) -> dict[str, Any]:
            return _report(job, options)

        found = refusals.attempt(report)
        reports += [found] if found is not None else []
    refusals.close()
    if options.json:
        sys.stdout.write(json.dumps(reports, indent=2) + "\n")
    return 0


def _report(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    built = driver.build(job.function, job.machine, numerics=options.numerics)
    bodies = [b for b in built.bodies() if len(b.stmts) > 1]
    solved = [_solve(b, options.seconds) for b in bodies] if options.optimal else []
    paced = [_pace(loop, options) for loop in built.loops()]
    demand = driver.demand(built)
    if not options.json:
        parts = (
            orders_table(bodies),
            optima_table(bodies, solved),
            intervals_table(paced),
            demand_text(demand),
        )
        text = "\n\n".join(p for p in parts if p)
        sys.stdout.write(f"{job.kernel} for {job.machine.name}\n{text}\n\n")
        sys.stdout.flush()
    rows = [_plain(b) for b in bodies]
    for row, s in zip(rows, solved, strict=False):
        row["optimal"] = {"makespan": s.best, "bound": s.bound, "closed": s.closed, "gap": s.gap}
    return {
        "kernel": job.kernel,
        "machine": job.machine.name,
        "bodies": rows,
        "loops": [_interval(p) for p in paced],
        "pressure": demand.plain(),
    }


def _solve(body: Body, seconds: float) -> Solved:
    problem = on_grid(body.problem)
    listed = makespan(problem, body.order)
    found = optimum(problem, seconds, body.order)
    return Solved(listed / GRID, found.makespan / GRID, found.bound / GRID, found.closed)


def _pace(loop: Body, options: argparse.Namespace) -> Paced:
    """The interval of a loop, below what one iteration takes by itself."""
    problem = on_grid(loop.problem)
    found = modulo_schedule(problem, makespan(problem, loop.order))
    if found is None or not options.optimal:
        return Paced(loop, found.interval / GRID if found else None)
    best = shortest(problem, found, options.seconds)
    return Paced(loop, found.interval / GRID, best.best.interval / GRID, best.bound / GRID)


def _interval(paced: Paced) -> dict[str, Any]:
    return {
        "loop": paced.loop.name,
        "ResMII": resource_bound(paced.loop.problem)[0],
        "RecMII": recurrence_bound(paced.loop.problem),
        "modulo schedule": paced.interval,
        "shortest": paced.shortest,
        "none below": paced.bound,
    }


def _plain(body: Body) -> dict[str, Any]:
    limits = bounds(body.problem)
    both = {"source order": range(len(body.stmts)), "this order": body.order}
    return {
        "body": body.name,
        "statements": len(body.stmts),
        "bounds": {"longest path": limits.critical, "pipes": limits.pipes},
        "makespan": {name: makespan(body.problem, order) for name, order in both.items()},
        "iterations": body.iterations,
        "cycles": {name: duration(body.problem, order, body.iterations) for name, order in both.items()},
    }
