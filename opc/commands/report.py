"""``opc report FILE.k``: everything about a kernel on an NPU in one HTML file that needs no network."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opc import driver
from opc.build import Build, text_of
from opc.commands.options import add_numerics, add_source, npu_of, source
from opc.files import write_atomic
from opc.lang import File
from opc.npu import Timeline
from opc.npu.occupancy import occupancy
from opc.npu.roofline import roofline
from opc.npu_kernel import NpuKernel
from opc.pipeline import Step
from opc.report.page import drawn, page
from opc.report.tables import duration
from opc.report.timeline_text import instruction_counts

ORDERS = ("source order", "reordered")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_numerics(parser)
    parser.add_argument("--machine", metavar="NAME|FILE.toml", default=driver.NPU, help="an NPU")
    parser.add_argument(
        "-o", "--output", default="build", metavar="DIR", help="folder for reports (default: build)"
    )


def run(options: argparse.Namespace) -> int:
    """Write a report on every kernel of the file that has an example."""
    from opc.lang import kernel_names

    file = source(options)
    machine = npu_of(options)
    sizes = {k: v for group in options.set for k, v in group.items()}
    written = {}
    for name in kernel_names(file, only=options.kernel):
        function = driver.specialise(
            file, file.name, machine, name, sizes, options.dtype, options.layout, options.mixed
        )
        irs = [("tensor IR", text_of(function), "as lowered")]

        def after(step: Step, irs: list[tuple[str, str, str]] = irs) -> None:
            if step.changed:
                irs.append((f"after {step.name}", text_of(step.ir), duration(step.seconds)))

        built = driver.build(
            function, machine, after, Path(options.output) / name / "failed", options.numerics
        )
        text = page(f"{name} on {machine.name}", _data(built, irs, file))
        written[name] = str(write_atomic(Path(options.output) / name / "report.html", text))
        if not options.json:
            sys.stdout.write(f"wrote {written[name]}\n")
    if options.json:
        sys.stdout.write(json.dumps(written, indent=2) + "\n")
    return 0


def _data(built: Build, irs: list[tuple[str, str, str]], file: File) -> dict[str, Any]:
    kernels = [driver.npu_kernel(b) for b in (driver.in_source_order(built), built)]
    proofs = [str(p) for p in kernels[1].proofs]
    timelines = [k.timeline for k in kernels]
    named = _named(built)
    sizes = ", ".join(
        f"{t.name}: {t.dtype}{list(t.shape)}" for t in built.source.tensors().values() if t.name in named
    )
    gain = timelines[0].cycles / timelines[1].cycles if timelines[1].cycles else 1.0
    shown = [{"name": n, "text": t, "note": note, "timeline": -1} for n, t, note in irs]
    for number, (order, kernel) in enumerate(zip(ORDERS, kernels, strict=True)):
        shown.append({"name": f"listing, {order}", "text": kernel.texts[-1], "note": "", "timeline": number})
    cycles = f"{timelines[0].cycles:,.0f} cycles in source order, {timelines[1].cycles:,.0f} reordered"
    return {
        "title": f"{built.source.name} on {built.machine.name}",
        "summary": f"{sizes}. {cycles}: {gain:.2f}x",
        "source": file.text,
        "irs": shown,
        "timelines": [
            drawn(t, order.capitalize(), _lines(k)) | {"cycles": t.cycles}
            for order, k, t in zip(ORDERS, kernels, timelines, strict=True)
        ],
        "occupancy": [
            {"space": o.space, "capacity": o.capacity, "peak": o.peak, "steps": o.steps}
            for o in occupancy(timelines[1])
        ],
        "roofline": _roofline(timelines),
        "tables": _tables(built, timelines),
        "proofs": proofs,
    }


def _named(built: Build) -> set[str]:
    return {a.tensor.name for a in built.source.args} | set(built.source.results)


def _lines(kernel: NpuKernel) -> dict[str, int]:
    """The line of each instruction of run's listing, by its text without indentation."""
    found: dict[str, int] = {}
    for number, line in enumerate(kernel.texts[-1].splitlines(), 1):
        found.setdefault(line.strip(), number)
    return found


def _roofline(timelines: list[Timeline]) -> dict[str, Any]:
    found = [roofline(t) for t in timelines]
    points = [
        {"label": order, "intensity": r.intensity, "performance": r.performance}
        for order, r in zip(ORDERS, found, strict=True)
    ]
    r = found[-1]
    return {
        "cube_peak": r.cube_peak,
        "vector_peak": r.vector_peak,
        "bandwidth": r.bandwidth,
        "points": points,
    }


def _tables(built: Build, timelines: list[Timeline]) -> list[Mapping[str, Any]]:
    before, after = timelines
    pipes = [
        (pipe, f"{before.busy_share.get(pipe, 0.0):.1%}", f"{share:.1%}")
        for pipe, share in after.busy_share.items()
    ]
    classes = [(name, *counts) for name, counts in instruction_counts(built.module).items()]
    peaks = [
        (o.space, f"{o.peak:,}", f"{o.capacity:,}", f"{o.peak / o.capacity:.1%}") for o in occupancy(after)
    ]
    passes = [(s.name, duration(s.seconds), "" if s.changed else "no change") for s in built.steps]
    return [
        {"header": ["pipe", "busy, source order", "reordered"], "rows": pipes},
        {"header": ["memory", "peak bytes", "of", "share"], "rows": peaks},
        {"header": ["class", "in the text", "executed"], "rows": classes},
        {"header": ["pass", "time", ""], "rows": passes},
    ]
