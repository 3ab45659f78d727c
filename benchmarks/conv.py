"""The convolutions of ResNet-50 with batch norm and ReLU, on opc and on every library installed.

    python benchmarks/conv.py --quick        a fixed subset, about a minute
    python benchmarks/conv.py                all 184 cells, three sets of processes: this decides the bars

docs/benchmarks.md says what is measured and how to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bars import DIRECT, LICENSED, PEERS, conv_bars
from benchmarks.problems.resnet50 import QUICK, RESNET50
from benchmarks.report import View
from benchmarks.suite import Suite, run

SUITE = Suite(
    family="conv",
    about=__doc__,
    names=tuple(RESNET50),
    quick=QUICK,
    batches=(1, 8),
    quick_batches=(1, 8),
    view=View(
        peers=PEERS,
        ours={"direct": DIRECT, "licensed": LICENSED},
        describe=lambda case: f"{case.name}  {RESNET50[case.name]}",
    ),
    bars=conv_bars,
)

if __name__ == "__main__":
    sys.exit(run(SUITE))
