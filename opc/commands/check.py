"""``opc check FILE.k``: every diagnostic of a source for its machines; nothing is written."""

from __future__ import annotations

import argparse
import json
import sys

from opc import driver
from opc.build import Build
from opc.commands.options import Job, Refusals, add_source, add_target, jobs, source


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_target(parser)


def run(options: argparse.Namespace) -> int:
    """Specialise and lower every kernel for every machine; one line each."""
    refusals = Refusals.of(options)
    passed: list[Job] = []
    for job in jobs(options, source(options)):

        def lower(job: Job = job) -> Build:
            return driver.build(job.function, job.machine, numerics=options.numerics)

        if refusals.attempt(lower) is not None:
            passed.append(job)
    refusals.close()
    if options.json:
        rows = [{"kernel": job.kernel, "machine": job.machine.name} for job in passed]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{job.kernel}: ok for {job.machine.name}\n" for job in passed)
    return 0
