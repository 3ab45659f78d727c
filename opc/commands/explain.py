"""``opc explain CODE``."""

from __future__ import annotations

import argparse
import json
import sys

from opc.codes import explanations
from opc.errors import RuntimeCallError, fail


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("code", nargs="?", help="a diagnostic code such as E0203; without it, list all")


def run(options: argparse.Namespace) -> int:
    """Print the explanation of one code, or every code with its title."""
    table = explanations()
    if options.code is None:
        if options.json:
            sys.stdout.write(json.dumps({c: e.title for c, e in table.items()}, indent=2) + "\n")
        else:
            sys.stdout.writelines(f"{c}  {e.title}\n" for c, e in table.items())
        return 0
    entry = table.get(options.code.upper())
    if entry is None:
        raise fail(
            RuntimeCallError,
            "E0924",
            f"no diagnostic has the code '{options.code}'",
            help="list them: opc explain",
        )
    if options.json:
        sys.stdout.write(
            json.dumps({"code": entry.code, "title": entry.title, "text": entry.text}, indent=2) + "\n"
        )
    else:
        sys.stdout.write(f"{entry.code}: {entry.title}\n\n{entry.text}\n")
    return 0
