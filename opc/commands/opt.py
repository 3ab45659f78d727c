"""``opc opt FILE --passes a,b{size=4}``: run passes on IR text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from opc import driver
from opc.build import parse_ir, run_passes, text_of, verify
from opc.commands.options import add_numerics
from opc.files import read_text, write_atomic
from opc.pipeline import Step, parse_passes
from opc.report.tables import duration, table


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="IR text (tensor or program), or - for standard input")
    parser.add_argument(
        "--passes", default="", metavar="a,b{size=4}", help="passes to run, in order; none: verify only"
    )
    parser.add_argument("--machine", default="avx2", metavar="NAME|FILE.toml", help="machine to compile for")
    add_numerics(parser)
    parser.add_argument(
        "--print-after", metavar="PASS|all", help="print the IR after this pass too, on stderr"
    )
    parser.add_argument("--time", action="store_true", help="print the time each pass took, on stderr")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the result here instead of standard output"
    )


def run(options: argparse.Namespace) -> int:
    """Read, verify, run the passes with verification after each, print."""
    machine = driver.target_machine("", options.machine)
    # A filetest may be given as it is: its expectation follows this line.
    text = read_text(options.file).partition("\n# ====\n")[0]
    ir = parse_ir(text, "<stdin>" if options.file == "-" else options.file)
    verify(ir, machine)
    passes = parse_passes(options.passes, driver.pass_table())

    def after(step: Step) -> None:
        if options.print_after in ("all", step.name):
            sys.stderr.write(f"# after {step.name}\n{text_of(step.ir)}")

    result, steps = run_passes(ir, passes, machine, after, Path("build"), options.numerics)
    if options.time:
        rows = [(s.name, duration(s.seconds), "" if s.changed else "unchanged") for s in steps]
        sys.stderr.write(table(("pass", "time", ""), rows) + "\n")
    if options.output:
        write_atomic(Path(options.output), text_of(result))
    else:
        sys.stdout.write(text_of(result))
    return 0
