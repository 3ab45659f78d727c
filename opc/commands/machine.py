"""``opc machine list|show``."""

from __future__ import annotations

import argparse
import json
import sys

from opc import machine
from opc.machine.model import Machine
from opc.report.tables import table


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=["list", "show"], help="what to print")
    parser.add_argument("name", nargs="?", help="machine name or .toml file, for show")


def run(options: argparse.Namespace) -> int:
    """Print the shipped machines, or one of them in full."""
    if options.action == "list":
        return _list(options.json)
    if options.name is None:
        sys.stderr.write(
            "usage: opc machine show NAME\nopc machine: error: show needs a machine name or file\n"
        )
        return 2
    _show(machine.load(options.name), options.json)
    return 0


def _list(as_json: bool) -> int:
    machines = [machine.load(name) for name in machine.names()]
    if as_json:
        rows = [{"name": m.name, "kind": m.kind, "description": m.description} for m in machines]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        header = ("machine", "kind", "default", "description")
        rows_text = [(m.name, m.kind, m.default_dtype, m.description) for m in machines]
        sys.stdout.write(table(header, rows_text) + "\n")
    return 0


def _show(m: Machine, as_json: bool) -> None:
    facts: dict[str, object] = {
        "name": m.name,
        "kind": m.kind,
        "description": m.description,
        "clock (MHz)": m.clock_mhz,
        "cores": m.cores,
        "default dtype": str(m.default_dtype),
        **{f"{unit} dtypes": " ".join(kinds) for unit, kinds in m.dtypes.items()},
        "vector bytes": m.vector_bytes,
        "scale forms": " ".join(sorted(m.scale_forms)),
        "synchronisation": m.sync,
        "CPU features": " ".join(m.features) or "none",
    }
    spaces = [
        (s.name, s.capacity or "unlimited", s.align, "yes" if s.addressable else "no")
        for s in m.spaces.values()
    ]
    routes = [(r.opcode_class, r.source, r.target, r.pipe, r.bandwidth, r.latency) for r in m.routes]
    if as_json:
        data = {**facts, "spaces": spaces, "routes": routes, "sources": m.sources}
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
        return
    width = max(map(len, facts))
    sys.stdout.writelines(f"{key.ljust(width)}  {value}\n" for key, value in facts.items())
    sys.stdout.write("\nspaces\n" + table(("space", "bytes", "align", "addressable"), spaces) + "\n")
    header = ("class", "from", "to", "pipe", "B/cycle", "latency")
    sys.stdout.write("\nroutes\n" + table(header, routes) + "\n")
    if m.sources:
        sys.stdout.write(
            "\nsources of the figures\n" + table(("figure", "source"), sorted(m.sources.items())) + "\n"
        )
