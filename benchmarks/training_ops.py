"""Blocks of ResNet-50 in training: convolution, batch norm with batch statistics, ReLU, and all their gradients.

    python benchmarks/training_ops.py --quick     c03 c14 (NPU: c17), about a minute
    python benchmarks/training_ops.py             ten blocks, 80 cells, three sets of processes: this decides the bars
    python benchmarks/training_ops.py --memory    bytes that a step holds, beside torch's; nothing is timed

On the CPU a call is a step: y, and the gradients of x, w, gamma and beta from that of y, on weights that change before
every call; opc takes turns with torch eager and torch.compile. On the NPU (ascend910, f16, 32 images over 32 cores) the
backward kernel is simulated as separate operators (a), these pipelined (a2), fused (c), fused and reordered (d), each
without and, marked +, with the numerics licence: bars compare separate operators as written with (d+).
docs/benchmarks.md says what is measured and how to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.check_training import TrainingChecker
from benchmarks.harness import Plan
from benchmarks.problems.resnet50 import RESNET50
from benchmarks.problems.train import NAMES, QUICK, QUICK_SIMULATED
from benchmarks.report import View
from benchmarks.suite import Suite, run
from benchmarks.training_bars import OURS, TORCH, training_bars
from benchmarks.training_memory import show
from benchmarks.training_npu import simulate

SUITE = Suite(
    family="train",
    about=__doc__,
    names=NAMES,
    quick=QUICK,
    batches=(8, 32),
    quick_batches=(8,),
    view=View(peers=TORCH, ours={"opc": OURS}, describe=lambda case: f"{case.name}  {RESNET50[case.name]}"),
    bars=training_bars,
    plan=Plan(rounds=5, runs=10, warm=1, slowest=1.5),
    checker=TrainingChecker,
    simulate=simulate,
    quick_simulated=QUICK_SIMULATED,
)

if __name__ == "__main__":
    options = sys.argv[1:]
    sys.exit(show([o for o in options if o != "--memory"]) if "--memory" in options else run(SUITE))
