"""Data and weight gradients of the convolutions of ResNet-50, on opc and on torch (oneDNN), each by itself.

    python benchmarks/conv_grad.py --quick        nine shapes of batch 8
    python benchmarks/conv_grad.py                all shapes, batch 8 and 32

docs/benchmarks.md says what is measured and how to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bars import DIRECT, conv_grad_bars
from benchmarks.problems.conv_grad import NAMES, QUICK
from benchmarks.problems.resnet50 import layer
from benchmarks.report import View
from benchmarks.suite import Suite, run

SUITE = Suite(
    family="conv_grad",
    about=__doc__,
    names=NAMES,
    quick=QUICK,
    batches=(8, 32),
    quick_batches=(8,),
    view=View(
        peers=("torch-grad",),
        ours={"ratio": DIRECT},
        describe=lambda case: f"{case.name}  {layer(case.name)}",
    ),
    bars=conv_grad_bars,
)

if __name__ == "__main__":
    sys.exit(run(SUITE))
