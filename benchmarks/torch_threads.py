"""torch and opc in turn in one process: does either slow the other?

    python benchmarks/torch_threads.py [--threads N] [--seconds S]

Both work on the same tensors: a training step of convolution, batch norm and ReLU (channels last, f32), by torch and by
``opc.torch``. A round times calls of torch by itself, of opc by itself, and of both in turn, in an order that changes
from round to round; the first calls of each part are not counted. A case is the median over the rounds of
(time in turn) / (time by itself). In turn means: always the other one in between, so that caches and threads are as
the other left them. ``torch+torch`` says what another torch step on other tensors does to torch, which is no fault of
threads.

    bar torch_threads VALUE 1.05 ok|short          the largest ratio of torch beside opc, and of opc beside torch
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Call = Callable[[], Any]
Part = Callable[[], list[float]]
TARGET = 1.05
WARM, CALLS = 2, 6


@dataclass(frozen=True)
class Pair:
    """Two kinds of calls that take turns."""

    label: str
    first: Call
    second: Call


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the bar."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--threads", type=int, metavar="N", help="threads of both (default: all processors)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="time to measure (default: 10)"
    )
    options = parser.parse_args(arguments)
    try:
        import torch
    except ImportError:
        sys.stdout.write(f"PyTorch is not installed\nbar torch_threads n/a {TARGET} n/a\n")
        return 0
    if options.threads:
        torch.set_num_threads(options.threads)
    ours, theirs, others = steps(torch)
    sys.stdout.write(f"{torch.get_num_threads()} threads, OpenMP runtime {runtime()}\n")
    mixed = measured(Pair("torch and opc", theirs, ours), options.seconds)
    alike = measured(Pair("torch and torch", theirs, others), options.seconds / 3)
    sys.stdout.write("\n".join(report(mixed, alike)) + "\n")
    return 0


def runtime() -> str:
    """Where the runtime lies that opc uses."""
    from opc.cpu import threads

    found = threads.runtime()
    return found.name if found else "none"


def steps(torch: Any) -> tuple[Call, Call, Call]:
    """A training step by opc, the same by torch, and one by torch on tensors of its own."""
    import opc.torch

    F = torch.nn.functional  # noqa: N806 -- its name in every torch program

    def block() -> tuple[list[Any], list[Any], Any]:
        x = torch.randn(8, 64, 14, 14).to(memory_format=torch.channels_last)
        leaves = [x, torch.randn(64, 64, 3, 3) * 0.05, torch.ones(64), torch.zeros(64)]
        dy = torch.randn(8, 64, 14, 14).to(memory_format=torch.channels_last)
        return [t.requires_grad_() for t in leaves], [torch.zeros(64), torch.ones(64)], dy

    def by_opc(leaves: list[Any], running: list[Any], dy: Any) -> Any:
        y = opc.torch.conv_bn_relu(*leaves, *running, training=True)
        return torch.autograd.grad(y, leaves, dy)

    def by_torch(leaves: list[Any], running: list[Any], dy: Any) -> Any:
        x, w, gamma, beta = leaves
        y = F.relu(F.batch_norm(F.conv2d(x, w, padding=1), *running, gamma, beta, True))
        return torch.autograd.grad(y, leaves, dy)

    torch.manual_seed(0)
    same, other = block(), block()
    return lambda: by_opc(*same), lambda: by_torch(*same), lambda: by_torch(*other)


def measured(pair: Pair, seconds: float) -> tuple[list[float], list[float]]:
    """For both kinds: time in turn over time by itself, one for each round."""
    parts: list[Callable[[], list[float]]] = [
        lambda: alone(pair.first),
        lambda: alone(pair.second),
        lambda: in_turn(pair),
    ]
    for part in parts:
        part()
    ratios: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ratios[0]) < 5:
        turn = len(ratios[0]) % 3
        found = {n: parts[n]() for n in (*range(turn, 3), *range(turn))}
        for own, both, kept in zip((found[0], found[1]), found[2], ratios, strict=True):
            kept.append(both / own[0])
    return ratios


def alone(call: Call) -> list[float]:
    """The median time of calls one after the other."""
    return [statistics.median([timed(call) for _ in range(WARM + CALLS)][WARM:])]


def in_turn(pair: Pair) -> list[float]:
    """The median time of each kind, with one of the other kind before every call."""
    times = [(timed(pair.first), timed(pair.second)) for _ in range(WARM + CALLS)][WARM:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def timed(call: Call) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(mixed: tuple[list[float], list[float]], alike: tuple[list[float], list[float]]) -> list[str]:
    """The cases and the bar."""
    from benchmarks.bars import Least

    torch_beside, opc_beside = map(statistics.median, mixed)
    cases = (
        (f"torch beside opc ({len(mixed[0])} rounds)", torch_beside),
        ("opc beside torch", opc_beside),
        ("torch beside other tensors of torch, for comparison", statistics.median(alike[0])),
    )
    return Least("torch_threads", TARGET, cases, max(torch_beside, opc_beside)).lines()


if __name__ == "__main__":
    sys.exit(main())
