"""``opc machine list|show|check|fit``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from opc import machine
from opc.machine.model import Machine
from opc.program import fit, measured
from opc.program.measured import Row, Summary
from opc.report.tables import table


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=["list", "show", "check", "fit"], help="what to do")
    parser.add_argument("name", nargs="?", help="machine name or .toml file; list takes none")
    parser.add_argument(
        "--measured", metavar="FILE.csv", help="measured instruction times, for check and fit"
    )


def run(options: argparse.Namespace) -> int:
    """Print the shipped machines, one of them in full, or how it compares with measurements."""
    if options.action == "list":
        return _list(options.json)
    if options.name is None:
        return _usage(options.action, "needs a machine name or file")
    if options.action == "show":
        _show(machine.load(options.name), options.json)
        return 0
    if options.measured is None:
        return _usage(options.action, "needs --measured FILE.csv")
    rows = measured.read(options.measured)
    if options.action == "check":
        _check(machine.load(options.name), rows, options.json)
    else:
        _fit(machine.load(options.name), rows)
    return 0


def _usage(action: str, problem: str) -> int:
    sys.stderr.write(
        f"usage: opc machine {action} NAME [--measured FILE.csv]\nopc machine: error: {action} {problem}\n"
    )
    return 2


def _check(m: Machine, rows: Sequence[Row], as_json: bool) -> None:
    """Errors by instruction; rows of other campaigns stand apart and do not count."""
    own, others = measured.split(rows, m)
    tables = measured.by_instruction(own, m)
    apart = measured.by_instruction(others, m)
    total = measured.compare(own, m)
    if as_json:
        named = (("rows", tables), ("apart", apart), ("all", {"all": total}))
        facts = {key: {name: _facts(s) for name, s in found.items()} for key, found in named}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    header = ("instruction", "rows", "median %", "p95 %", "worst %", "not modelled")
    for found in filter(None, (tables, apart)):
        lines = [_line(name, s) for name, s in found.items()]
        sys.stdout.write(table(header, lines) + "\n\n")
    median, p95 = _percent(total.quantile(0.5)), _percent(total.quantile(0.95))
    sys.stdout.write(
        f"all {len(total.errors)} rows: median {median} % p95 {p95} %, not modelled {total.not_modelled}\n"
    )


def _facts(s: Summary) -> dict[str, object]:
    """For JSON: errors in per cent, null where there are none."""
    shares = {"median": 0.5, "p95": 0.95, "worst": 1.0}
    errors = {name: 100 * s.quantile(share) if s.errors else None for name, share in shares.items()}
    return {"rows": len(s.errors), **errors, "not_modelled": s.not_modelled}


def _line(name: str, s: Summary) -> tuple[object, ...]:
    errors = [_percent(s.quantile(share)) for share in (0.5, 0.95, 1.0)]
    return (name, len(s.errors), *errors, s.not_modelled)


def _percent(error: float) -> str:
    return "-" if error != error else f"{100 * error:.2f}"


def _fit(m: Machine, rows: Sequence[Row]) -> None:
    """The figures fitted to all rows, and the errors of a fit to half of them on the other half."""
    own, _ = measured.split(rows, m)
    sys.stdout.write(fit.figures(fit.fit(own, m)) + "\n")
    kept, held = fit.halves(own)
    left = measured.compare(held, fit.fit(kept, m))
    median, p95 = _percent(left.quantile(0.5)), _percent(left.quantile(0.95))
    sys.stdout.write(
        f"# a fit to every second row, on the other {len(left.errors)}: median {median} % p95 {p95} %\n"
    )


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
        **({"scale factor": str(m.scale_factor)} if m.scale_factor else {}),
        "synchronisation": m.sync,
        "CPU features": " ".join(m.features) or "none",
    }
    spaces = [
        (s.name, s.capacity or "unlimited", s.align, "yes" if s.addressable else "no")
        for s in m.spaces.values()
    ]
    routes = [(r.opcode_class, r.source, r.target, r.pipe, r.bandwidth, r.latency, r.units) for r in m.routes]
    costs = [(name, c.head, c.slope, c.tail, c.floor, c.fixed) for name, c in m.vector_costs.items()]
    curves = [(f"{r.source} to {r.target}", *point) for r in m.routes for point in r.curve]
    if as_json:
        data = {**facts, "spaces": spaces, "routes": routes, "curves": curves, "vector costs": costs}
        sys.stdout.write(json.dumps({**data, "sources": m.sources}, indent=2) + "\n")
        return
    width = max(map(len, facts))
    sys.stdout.writelines(f"{key.ljust(width)}  {value}\n" for key, value in facts.items())
    header = ("class", "from", "to", "pipe", "B/cycle", "latency", "units")
    tables = (
        ("spaces", ("space", "bytes", "align", "addressable"), spaces),
        ("routes", header, routes),
        ("when the data of one transfer is there", ("route", "bytes", "cycles"), curves),
        ("vector costs in cycles", ("operation", "head", "slope", "tail", "floor", "fixed"), costs),
    )
    for title, columns, rows in tables:
        if rows:
            sys.stdout.write(f"\n{title}\n" + table(columns, rows) + "\n")
    if m.sources:
        sys.stdout.write(
            "\nsources of the figures\n" + table(("figure", "source"), sorted(m.sources.items())) + "\n"
        )
