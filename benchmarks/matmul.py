"""Matrix products, on opc and on torch (MKL in f32, oneDNN in bf16).

    python benchmarks/matmul.py --quick
    python benchmarks/matmul.py

docs/benchmarks.md says what is measured and how to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bars import DIRECT, matmul_bars
from benchmarks.problems.matmul import NAMES, QUICK
from benchmarks.report import View
from benchmarks.suite import Suite, run

SUITE = Suite(
    family="matmul",
    about=__doc__,
    names=NAMES,
    quick=QUICK,
    batches=(1,),
    quick_batches=(1,),
    view=View(peers=("torch",), ours={"ratio": DIRECT}, describe=lambda case: case.name),
    bars=matmul_bars,
    batch_help="1: a batch is part of a name; ",
)

if __name__ == "__main__":
    sys.exit(run(SUITE))
