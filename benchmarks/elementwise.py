"""Kernels that memory bounds, on opc and against a triad with non-temporal stores that moves as many bytes.

    python benchmarks/elementwise.py --quick        arrays of 256 MiB
    python benchmarks/elementwise.py                arrays of 1 GiB: this decides the bar; needs 8 GiB free

docs/benchmarks.md says what is measured and how to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bars import DIRECT, elementwise_bars
from benchmarks.harness import Plan
from benchmarks.problems.elementwise import NAMES, QUICK
from benchmarks.report import View
from benchmarks.suite import Suite, run

SUITE = Suite(
    family="elementwise",
    about=__doc__,
    names=NAMES,
    quick=QUICK,
    batches=(1024,),
    quick_batches=(256,),
    view=View(peers=("triad",), ours={"of triad": DIRECT}, describe=lambda case: case.name),
    bars=elementwise_bars,
    batch_help="MiB of the largest array; ",
    # Calls take long and differ little: nothing of theirs stays in a cache.
    plan=Plan(runs=7, warm=1, slowest=5.0),
)

if __name__ == "__main__":
    sys.exit(run(SUITE))
