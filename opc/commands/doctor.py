"""``opc doctor``: what this computer offers, and what is missing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata

from opc import __version__, driver


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def run(options: argparse.Namespace) -> int:
    """Print one line per finding."""
    found = findings()
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        width = max(map(len, found))
        sys.stdout.writelines(f"{name.ljust(width)}  {value}\n" for name, value in found.items())
    return 0
