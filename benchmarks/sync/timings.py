"""Every shipped kernel under random timings: each gives the bits of program order.

On every core each dispatch, start and duration is drawn anew, and instructions take effect as they complete.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.progress import Progress  # noqa: E402
from benchmarks.sync.shipped import arrays, listings, parser  # noqa: E402
from opc import machine as machines  # noqa: E402
from opc.errors import ListingError  # noqa: E402
from opc.machine import Machine  # noqa: E402
from opc.npu.adversarial import sweep  # noqa: E402
from opc.npu.listing import Listing  # noqa: E402


def main() -> int:
    """Print what differed; 1 if anything did."""
    options = parser(__doc__).parse_args()
    target = machines.load(options.machine)
    start = time.monotonic()
    chosen = list(listings(target, options.only))
    differing = 0
    with Progress(len(chosen)) as progress:
        for label, listing in chosen:
            progress.begin(label)
            found = differs(listing, options.timings, options.seed, target)
            differing += bool(found)
            if found:
                progress.say(f"{label}: {found}")
            progress.done()
    print(
        f"{len(chosen)} listings x {options.timings} timings, seed {options.seed}, {time.monotonic() - start:.0f} s"
    )
    print(f"bar timings_differ {differing} 0 {'short' if differing else 'ok'}")
    return 1 if differing else 0


def differs(listing: Listing, timings: int, seed: int, target: Machine) -> str:
    """What the timings change, or an empty text."""
    try:
        wrong = sweep(listing, arrays(listing), timings, seed, target)
    except ListingError as error:
        return error.diagnostics[0].message
    return f"timings {wrong} give other results" if wrong else ""


if __name__ == "__main__":
    sys.exit(main())
