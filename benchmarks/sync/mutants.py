"""Breaks the synchronisation of the shipped kernels' listings, one instruction at a time.

Each flag and barrier is deleted, moved and renumbered. Whatever one of many random timings breaks (a wrong result, a
flag lost or left set, no end) the checker must report. It must report nothing about the listings as compiled. Mutants
that are reported although no timing broke them are listed with the report (``--list FILE``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.progress import Progress  # noqa: E402
from benchmarks.sync.edits import mutants  # noqa: E402
from benchmarks.sync.shipped import arrays, listings, parser  # noqa: E402
from opc import machine as machines  # noqa: E402
from opc import npu  # noqa: E402
from opc.errors import ListingError  # noqa: E402
from opc.machine import Machine  # noqa: E402
from opc.npu.listing import Listing, Phase  # noqa: E402
from opc.npu.trial import Trial  # noqa: E402
from opc.report.tables import table  # noqa: E402


@dataclass(frozen=True)
class Mutant:
    """One changed phase of one listing."""

    label: str
    what: str
    listing: Listing
    number: int
    phase: Phase

    @property
    def changed(self) -> Listing:
        phases = (*self.listing.phases[: self.number], self.phase, *self.listing.phases[self.number + 1 :])
        return replace(self.listing, phases=phases)


def main() -> int:
    """Print counts by kernel; 1 if a broken mutant went unreported or a listing as compiled was reported."""
    options = arguments()
    target = machines.load(options.machine)
    start = time.monotonic()
    chosen = collect(target, options)
    counts: dict[str, Counter[str]] = {}
    missed, unbroken = [], []
    with Progress(len(chosen)) as progress:
        trial: tuple[Listing, int, Trial] | None = None
        for m in chosen:
            progress.begin(f"{m.label}: {m.what}")
            if trial is None or trial[0] is not m.listing or trial[1] != m.number:
                trial = m.listing, m.number, Trial(m.listing, m.number, arrays(m.listing), target)
            kind, text = verdict(m, trial[2], target, options)
            counts.setdefault(m.label, Counter())[kind] += 1
            missed += [text] if kind == "missed" else []
            unbroken += [text] if kind == "reported only" else []
            progress.done()
    report(counts, missed, unbroken, options)
    print(f"{len(chosen)} mutants, seed {options.seed}, {time.monotonic() - start:.0f} s")
    return 1 if missed else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    found = parser(__doc__)
    found.add_argument("--count", type=int, metavar="N", help="this many, drawn at random (default: all)")
    found.add_argument("--list", metavar="FILE", help="write the mutants that only the checker objects to")
    return found.parse_args()


def collect(target: Machine, options: argparse.Namespace) -> list[Mutant]:
    """The mutants to try. Raises ListingError if a listing as compiled is reported."""
    found = []
    for label, listing in listings(target, options.only):
        npu.prove(listing, target)
        for n, phase in enumerate(listing.phases):
            found += [Mutant(label, what, listing, n, changed) for what, changed in mutants(phase, target)]
    if options.count is None or options.count >= len(found):
        return found
    kept = sorted(Random(options.seed).sample(range(len(found)), options.count))
    return [found[n] for n in kept]


def verdict(m: Mutant, trial: Trial, target: Machine, options: argparse.Namespace) -> tuple[str, str]:
    """One of "caught", "missed", "reported only" and "harmless", and a line about it."""
    try:
        npu.prove(m.changed, target)
        objection = None
    except ListingError as error:
        objection = error.diagnostics[0]
    outcome = trial.outcome(m.phase, options.timings, options.seed)
    name = f"{m.label}: phase {m.number}: {m.what}"
    if objection is None:
        return ("missed", f"{name}: {outcome.broken}") if outcome.broken else ("harmless", name)
    if outcome.broken:
        return "caught", name
    notes = "; ".join(objection.notes)
    return "reported only", f"{name}\n  {objection.code} {objection.message}\n  {notes}\n"


def report(
    counts: dict[str, Counter[str]], missed: list[str], unbroken: list[str], options: argparse.Namespace
) -> None:
    """The table, what was missed, and the file of reports without a break."""
    kinds = ("caught", "missed", "reported only", "harmless")
    total = sum(counts.values(), Counter[str]())
    rows = [(label, *(str(c[k]) for k in kinds)) for label, c in [*counts.items(), ("all", total)]]
    print(table(("kernel", *kinds), rows))
    print(*(f"missed: {line}" for line in missed), sep="\n")
    if options.list:
        path = Path(options.list)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(unbroken), encoding="utf-8")
    print(f"bar mutants_missed {total['missed']} 0 {'short' if total['missed'] else 'ok'}")


if __name__ == "__main__":
    sys.exit(main())
