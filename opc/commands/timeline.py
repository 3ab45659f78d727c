"""``opc timeline FILE.k``: the NPU's pipes over time, in source order and reordered, drawn in the terminal."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import Any

from opc import driver
from opc.commands.options import add_numerics, add_source, natural, npu_of, source
from opc.npu import Timeline
from opc.report.pipes_text import drawing, stalls_table
from opc.report.timeline_text import cycles_line


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_numerics(parser)
    parser.add_argument("--machine", metavar="NAME|FILE.toml", default=driver.NPU, help="an NPU")
    parser.add_argument("--width", type=natural, metavar="N", help="columns (default: as the terminal has)")
    parser.add_argument("--start", type=natural, default=0, metavar="CYCLE", help="draw from here on")
    parser.add_argument("--end", type=natural, metavar="CYCLE", help="draw up to here")


def run(options: argparse.Namespace) -> int:
    """Simulate and draw every kernel."""
    from opc.lang import kernel_names

    file = source(options)
    machine = npu_of(options)
    sizes = {k: v for group in options.set for k, v in group.items()}
    reports = []
    for name in kernel_names(file, only=options.kernel):
        function = driver.specialise(
            file, file.name, machine, name, sizes, options.dtype, options.layout, options.mixed
        )
        built = driver.build(function, machine, numerics=options.numerics)
        kernel = driver.npu_kernel(built)
        assert kernel.proofs
        before = driver.npu_kernel(driver.in_source_order(built)).timeline
        reports.append(_facts(name, before, kernel.timeline))
        if not options.json:
            sys.stdout.write(f"{name} on {machine.name}\n{_drawn(before, kernel.timeline, options)}\n\n")
    if options.json:
        sys.stdout.write(json.dumps(reports, indent=2) + "\n")
    return 0


def _facts(name: str, before: Timeline, after: Timeline) -> dict[str, Any]:
    orders = {"source order": before, "reordered": after}
    return {"kernel": name} | {
        order: {"cycles": t.cycles, "busy": t.busy_share} for order, t in orders.items()
    }


def _drawn(before: Timeline, after: Timeline, options: argparse.Namespace) -> str:
    """Both orders on one scale, then where the better one waits."""
    width = options.width or max(20, shutil.get_terminal_size((120, 0)).columns - 20)
    end = float(options.end or max(before.cycles, after.cycles))
    start = float(min(options.start, end - 1))
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    parts = [cycles_line(before.cycles, after.cycles), ""]
    for order, timeline in (("source order", before), ("reordered", after)):
        parts += [f"  {order}", drawing(timeline, start, end, max(20, width), plain), ""]
    return "\n".join([*parts, stalls_table(after)]).rstrip()
