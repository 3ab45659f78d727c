"""The ``opc`` command: arguments in, exit status out; every expected error ends here as a diagnostic.

Exit status: 0 done, 1 diagnostics, 2 usage, 3 a failed check, 70 internal error, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from opc.commands.parser import parser
from opc.errors import CheckError, OpcError, RuntimeCallError, fail

INTERRUPTED = 130
INTERNAL = 70


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit status."""
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # argparse: 2 for usage, 0 after --help
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        # Objects that were half made complain from their finalisers.
        sys.unraisablehook = lambda _: None
        _message("opc: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `opc … | head` does
        _abandon_output()
        return 0


def _dispatch(arguments: Sequence[str]) -> int:
    first = next((a for a in arguments if not a.startswith("-")), "")
    options = parser([first]).parse_args(arguments)
    if options.version:
        from opc import __version__

        sys.stdout.write(f"opc {__version__}\n")
        return 0
    if options.command is None:
        parser([]).print_help(sys.stderr)
        return 2
    try:
        status: int = import_module(f"opc.commands.{options.command}").run(options)
        sys.stdout.flush()
    except OpcError as error:
        return report(error, as_json=options.json)
    except BrokenPipeError:
        raise
    except OSError as problem:  # a full disk under `opc … > file`, a closed terminal
        reason = problem.strerror or str(problem)
        _abandon_output()
        return report(fail(RuntimeCallError, "E0923", f"cannot write the output: {reason}"), options.json)
    except MemoryError:
        help = "use smaller sizes: --set NAME=VALUE"
        return report(fail(RuntimeCallError, "E0929", "out of memory", help=help), options.json)
    except Exception as problem:
        return _internal(problem, arguments, options)
    return status


def _abandon_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail on it again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def report(error: OpcError, as_json: bool = False) -> int:
    """Print the diagnostics of ``error`` on stderr; the exit status they mean."""
    if as_json:
        _message(json.dumps({"diagnostics": [d.as_json() for d in error.diagnostics]}, indent=2))
    else:
        _message(str(error))
    return 3 if isinstance(error, CheckError) and error.code == "E1001" else 1


def _internal(problem: Exception, arguments: Sequence[str], options: argparse.Namespace) -> int:
    from opc.commands.crash import write_reproducer

    where = write_reproducer(problem, arguments, getattr(options, "file", None))
    _message(f"opc: internal error: {type(problem).__name__}: {problem}")
    for note in getattr(problem, "__notes__", ()):
        _message(f"  = note: {note}")
    _message(f"  = note: reproducer written to {where}")
    _message("  = help: please report it with that file")
    return INTERNAL


def _message(text: str) -> None:
    sys.stderr.write(text + "\n")
