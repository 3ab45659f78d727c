"""``--tune`` of several subcommands: which plans were timed and what came of it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from opc import driver
from opc.cache.key import Request
from opc.commands.options import Job, chosen_sizes
from opc.cpu.threads import count
from opc.errors import render
from opc.lang import File
from opc.report.tables import duration, table
from opc.tuning.choose import MODEL, Choice

_MODEL = "the model's choice"


def add_tune(parser: argparse.ArgumentParser) -> None:
    """Declare ``--tune``."""
    parser.add_argument(
        "--tune", action="store_true", help="time the plans that the cost model likes best, use the fastest"
    )


def tuned(job: Job, file: File, options: argparse.Namespace) -> Choice | None:
    """The choice for a job; None where nothing is to be timed. Bugs met on the way go to standard error."""
    if not options.tune or job.machine.kind != "cpu" or vars(options).get("triple"):
        return None
    about = job.kernel, chosen_sizes(options), options.dtype, options.layout, options.machine
    tell = _Progress(job.kernel)
    try:
        choice = driver.tuned(
            Request(file.text, file.name, *about, options.numerics, mixed=options.mixed),
            count(options.threads),
            tell,
        )
    finally:
        tell.close()
    for problem in choice.problems:
        sys.stderr.write(render(problem) + "\n")
    return choice


class _Progress:
    """One line on a terminal's standard error, rewritten; nothing anywhere else."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(f"\r\033[K{self.kernel}: {text}")
            sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def plain(choice: Choice) -> dict[str, Any]:
    """For ``--json``."""
    rows = [
        {
            "plans": t.plans,
            "median_seconds": t.median,
            "best_seconds": t.best,
            "calls": t.calls,
            "note": t.note,
        }
        for t in choice.timed
    ]
    return {"plans": choice.plans, "candidates": rows, "problems": [p.as_json() for p in choice.problems]}


def table_of(choice: Choice) -> str:
    """Candidates with their times, the fastest first, the chosen one marked."""
    if not choice.timed:
        return "  plans: the cost model sees one choice only"
    base = next((t.median for t in choice.timed if t.plans == MODEL), 0.0)
    rows = []
    for t in sorted(choice.timed, key=lambda t: (not t.calls, t.median)):
        times = (duration(t.median), duration(t.best), f"{base / t.median:.3f}x") if t.calls else ("", "", "")
        mark = "chosen" if t.plans == choice.plans else ""
        rows.append((t.plans or _MODEL, *times, t.calls or "", mark or t.note))
    return table(("plans", "median", "best", "speed", "calls", ""), rows)
