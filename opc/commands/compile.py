"""``opc compile FILE.k``: build for CPU and NPU, write the artefacts, print a short report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from opc import driver
from opc.build import text_of
from opc.commands.emit import EMITS, Artefacts, emit_cpu, emit_npu, modelled
from opc.commands.options import Job, Refusals, add_source, add_target, jobs, source
from opc.commands.tuning import add_tune, plain, table_of, tuned
from opc.lang import File
from opc.pipeline import Step
from opc.report.saved_text import saved_rows, saved_table
from opc.report.tables import duration
from opc.report.timeline_text import instruction_counts, instructions_table, passes_table


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_target(parser)
    parser.add_argument(
        "-o", "--output", default="build", metavar="DIR", help="folder for artefacts (default: build)"
    )
    parser.add_argument(
        "--emit", type=emits, default=(), metavar="A,B", help="also write: " + ", ".join(EMITS)
    )
    parser.add_argument(
        "--triple", default="", metavar="T", help="emit for another processor, such as aarch64-linux-gnu"
    )
    add_tune(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads that --tune times with")
    parser.add_argument("--print-after", metavar="PASS|all", help="keep the IR after this pass as a file")


def emits(text: str) -> tuple[str, ...]:
    """Read ``llvm,asm``; raises ArgumentTypeError, which argparse reports as a usage error."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in EMITS:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(EMITS)}")
    return names


def run(options: argparse.Namespace) -> int:
    """Build every job; a machine that cannot hold a kernel is reported and does not stop the others."""
    if options.print_after not in (None, "all"):
        driver.pass_named(options.print_after)
    if options.triple:
        # What is known of another processor is that it has vectors.
        options.machine, options.target = options.machine or "portable", "cpu"
    file = source(options)
    refusals = Refusals.of(options)
    reports: list[dict[str, Any]] = []
    for job in jobs(options, file):

        def build(job: Job = job) -> dict[str, Any]:
            return _build(job, options, file)

        report = refusals.attempt(build)
        if report is None:
            continue
        shown = report.pop("text")
        reports.append(report)
        if not options.json:
            sys.stdout.write(shown)
            sys.stdout.flush()
    refusals.close()
    if options.json:
        sys.stdout.write(json.dumps(reports, indent=2) + "\n")
    return 0


def _build(job: Job, options: argparse.Namespace, file: File) -> dict[str, Any]:
    start = time.perf_counter()
    folder = Path(options.output) / job.kernel
    kept: list[tuple[str, str]] = []

    def after(step: Step) -> None:
        if options.print_after in ("all", step.name):
            kept.append((f"{len(kept):02d}-{step.name}.{job.machine.name}.ir", text_of(step.ir)))

    choice = tuned(job, file, options)
    plans = choice.plans if choice else ""
    built = driver.build(
        job.function, job.machine, after, folder / "failed", options.numerics, plans, job.half
    )
    artefacts = Artefacts(folder, options.emit)
    artefacts.common(built, file)
    for name, ir in kept:
        artefacts.add(f"after/{name}", ir)
    if job.machine.kind == "npu":
        figures, shown = emit_npu(built, artefacts)
    else:
        figures, shown = emit_cpu(built, artefacts, options.triple)
    files = artefacts.write()
    seconds = time.perf_counter() - start
    order, order_shown = modelled(built)
    head = f"{job.kernel} for {job.machine.name} ({job.machine.kind}, {duration(seconds)})\n"
    tables = [
        table_of(choice) if choice else "",
        passes_table(built.steps),
        instructions_table(built.module),
        shown,
        order_shown,
        saved_table(job.half) if job.half and job.half.is_forward else "",
        "  wrote " + ", ".join(files) if files else "",
    ]
    return {
        "kernel": job.kernel,
        "machine": job.machine.name,
        "seconds": seconds,
        "passes": {s.name: s.seconds for s in built.steps},
        "instructions": {name: executed for name, (_, executed) in instruction_counts(built.module).items()},
        **figures,
        **order,
        **({"tuning": plain(choice)} if choice else {}),
        **({"saved": saved_rows(job.half)} if job.half else {}),
        "files": files,
        "text": head + "\n".join(t for t in tables if t) + "\n\n",
    }
