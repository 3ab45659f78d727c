"""How many bytes a training step of a block holds beyond its arguments: counted for opc, measured for torch.

    python benchmarks/training_ops.py --memory                              this computer's machine, f32, batch 8
    python benchmarks/training_ops.py --memory --machine amx --dtype bf16   another machine's programs

opc: result, saved memory, and the larger of what forward works with and what backward works with (workspace, scratch,
packed weights, none of which count where they lie in a result) beside the gradients. Nothing of opc runs. torch: its
allocator's peak during a step on this computer; with ``--dtype bf16`` that is what bf16 takes here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.case import Case
from benchmarks.engine import ENGINES
from benchmarks.problems.train import NAMES, WRT, TrainProblem
from benchmarks.training_bars import TORCH

_ROW = "{:22} {:>7} {:>7} {:>8} {:>8} {:>9} {:>7} {:>7} {:>9} {:>6}"


class Held(NamedTuple):
    """Bytes by what they are for."""

    result: int
    saved: int
    forward: int
    backward: int
    gradients: int

    @property
    def most(self) -> int:
        """There are no gradients yet while forward works."""
        return self.result + self.saved + max(self.forward, self.backward + self.gradients)


def held(case: Case, machine_name: str) -> Held:
    """What a step of opc holds on a machine, which need not be this computer."""
    from opc import driver, machine
    from opc.cpu.kernel import lower
    from opc.sources import BACKWARD, FORWARD, Wanted

    what, target = TrainProblem(case), machine.load(machine_name)
    work, results, saved = {}, {}, 0
    for half in (FORWARD, BACKWARD):
        wanted = Wanted(None, what.sizes, case.dtype, what.layout, half, WRT, donate=True)
        made = driver.source(what.source, "block.k", wanted, target)
        built = driver.build(made.function, target, half=made.half)
        unit = lower(*built.module.programs, target)
        work[half] = unit.described(b"").own_memory(case.threads)
        results[half] = {b.name: b.slot_bytes for b in built.module.run.buffers if b.kind == "output"}
        saved = made.half.saved.size if made.half is not None else 0
    gradients = sum(results[BACKWARD].values())
    return Held(results[FORWARD]["y"], saved, work[FORWARD], work[BACKWARD], gradients)


def show(arguments: Sequence[str]) -> int:
    """Print the table and its worst ratio."""
    options = _options(arguments)
    engines = [e for e in TORCH if e in options.peers and ENGINES[e].missing() is None]
    print(f"bytes in MiB on {options.machine}, {options.threads} thread(s)")
    names = ("result", "saved", "forward", "backward", "gradients", "most")
    print(_ROW.format("block", *names, "eager", "compiled", "ratio"))
    worst = 0.0
    for case in _cases(options):
        ours = held(case, options.machine)
        theirs = {name: _torch(name, case) for name in engines}
        ratio = ours.most / min(theirs.values()) if theirs else None
        worst = max(worst, ratio or 0.0)
        sizes = [f"{n / 2**20:.2f}" for n in (*ours, ours.most)]
        peers = [f"{theirs[name] / 2**20:.2f}" if name in theirs else "-" for name in TORCH]
        print(_ROW.format(str(case), *sizes, *peers, f"{ratio:.3f}" if ratio else "-"), flush=True)
    print(f"worst {worst:.3f}" if worst else "no torch to compare with")
    return 0


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for dtype in options.dtype.split(","):
        for name in options.shapes.split(","):
            yield Case("train", name, dtype, options.batch, options.threads)


def _torch(name: str, case: Case) -> int:
    """The peak of a step, after one that made what stays."""
    prepared = ENGINES[name].make(case.threads).prepare(case)
    prepared.call()
    assert prepared.peak is not None
    return prepared.peak()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    from opc.cpu.features import pick_machine

    parser = argparse.ArgumentParser(
        prog="training_ops.py --memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", default=",".join(NAMES), metavar="NAMES")
    parser.add_argument("--dtype", default="f32", metavar="NAMES", help="of f32, bf16")
    parser.add_argument("--batch", type=int, default=8, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--machine", default=pick_machine(), metavar="NAME")
    parser.add_argument(
        "--peers", default=",".join(TORCH), metavar="NAMES", help=f"of {', '.join(TORCH)}; the first is quick"
    )
    options = parser.parse_args(arguments)
    options.peers = options.peers.split(",")
    return options
