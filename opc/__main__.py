"""Entry of the ``opc`` command: answers ``--version`` before anything else is imported."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command line; the exit status."""
    _open_streams()
    if sys.argv[1:] in (["--version"], ["-V"]):
        from opc import __version__

        sys.stdout.write(f"opc {__version__}\n")
        return 0
    # A command is short and leaves few cycles: looking for them would cost a fifth of a compilation.
    gc.disable()
    try:
        from opc.cli import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # during the imports
        return 130


def _open_streams() -> None:
    """Replace streams that the caller closed (``opc … >&-``) by ones that read and keep nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


if __name__ == "__main__":
    sys.exit(main())
