"""``opc check FILE.k``: every diagnostic of a source, nothing built."""

from __future__ import annotations

import argparse
import json
import sys

from opc.commands.options import add_source, add_target, jobs, source
from opc.errors import OpcError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_target(parser)


def run(options: argparse.Namespace) -> int:
    """Specialise every kernel for every machine; print one line each."""
    text, file = source(options)
    lines, refused = [], []
    for job in jobs(options, text, file):
        if isinstance(job, OpcError):
            refused.append(job)
        else:
            lines.append((job.kernel, job.machine.name))
    if refused and not lines:
        raise refused[0]
    if options.json:
        sys.stdout.write(json.dumps([{"kernel": k, "machine": m} for k, m in lines], indent=2) + "\n")
        return 0
    for error in refused:
        sys.stderr.write(f"{error}\n")
    sys.stdout.writelines(f"{kernel}: ok for {machine}\n" for kernel, machine in lines)
    return 0
