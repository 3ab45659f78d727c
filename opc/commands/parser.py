"""The argument parser of the ``opc`` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "compile": "compile kernels for CPU and NPU",
    "run": "run kernels and compare them with the oracle",
    "opt": "run passes on IR text",
    "check": "check a source file, build nothing",
    "schedule": "show how good the order of a kernel's instructions is",
    "report": "write a page for the browser: source, IR of every pass, listing, timelines",
    "timeline": "draw the pipes of an NPU over time in the terminal",
    "sweep": "simulate a kernel on machines with other figures, or at other sizes",
    "bench": "time a kernel against its machine's limits",
    "machine": "list or show machine descriptions",
    "cache": "list, check, shrink or empty the cache of compiled kernels",
    "explain": "explain a diagnostic code",
    "doctor": "report what this computer offers",
    "completion": "print a shell completion script",
}


def parser(commands: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The argument parser; options are declared for ``commands`` only, to keep start-up short."""
    top = argparse.ArgumentParser(prog="opc", description="An operator compiler for CPUs and an NPU.")
    top.add_argument("-V", "--version", action="store_true", help="print the version and exit")
    subs = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = subs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name in commands:
            sub.add_argument("--json", action="store_true", help="results and diagnostics as JSON")
            import_module(f"opc.commands.{name}").add(sub)
    return top
