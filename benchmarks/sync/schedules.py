"""Random small schedules: the checker against one that tries every interleaving.

A schedule has a few copies and vector instructions on a few rows, in loops or not, with flags and barriers at random:
those that the compiler inserts, with up to two changes, or any. Event ids, queue depths and which pipes keep their
order vary. The checkers must agree on whether there is anything to report.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.progress import Progress  # noqa: E402
from benchmarks.sync.edits import mutants  # noqa: E402
from benchmarks.sync.explore import Explorer, TooManyStatesError  # noqa: E402
from opc import machine as machines  # noqa: E402
from opc import npu  # noqa: E402
from opc.affine import Affine  # noqa: E402
from opc.dtypes import DType  # noqa: E402
from opc.machine import Machine  # noqa: E402
from opc.npu.check import verdict_of  # noqa: E402
from opc.npu.engine import plan  # noqa: E402
from opc.npu.expand import expand  # noqa: E402
from opc.npu.listing import Listing  # noqa: E402
from opc.pipeline import Context  # noqa: E402
from opc.program.ir import Access, Buffer, Instr, Loop, Program, Stmt  # noqa: E402
from passes.program.insert_sync import InsertSync  # noqa: E402

ROW = 32  # elements of a buffer; instructions take any part of it
MEMORY = 4  # rows in global memory


def main() -> int:
    """Print what was met; 1 if the checkers ever disagree."""
    options = arguments()
    start = time.monotonic()
    met: Counter[str] = Counter()
    with Progress(options.count) as progress:
        for n in range(options.count):
            progress.begin("schedules")
            machine, listing = schedule(Random(options.seed * 10_000_019 + n), options.machine)
            found = compare(listing, machine)
            met[found] += 1
            progress.done()
            if found.startswith("differ"):
                progress.say(f"schedule {n}: {found}\n{npu.print_listing(listing)}")
    for kind, count in sorted(met.items()):
        print(f"  {kind or 'nothing to report'}: {count}")
    differing = sum(count for kind, count in met.items() if kind.startswith("differ"))
    print(f"{options.count} schedules, seed {options.seed}, {time.monotonic() - start:.0f} s")
    print(f"bar checkers_differ {differing} 0 {'short' if differing else 'ok'}")
    return 1 if differing else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", default="ascend910")
    parser.add_argument("--count", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def compare(listing: Listing, machine: Machine) -> str:
    """What both report ("" for nothing), or "differ: …"."""
    phase = listing.phases[0]
    p = plan(expand(phase, phase.iterations(0, machine.cores)), machine)
    try:
        # Short queues hold instructions back by chance: only a deadlock may depend on them.
        truth = Explorer(p, replace(machine, queue_depth=0), listing).problem()
        if not truth and machine.queue_depth < len(p.trace.order):
            truth = Explorer(p, machine, listing).problem()
    except TooManyStatesError:
        return "too many interleavings"
    v = verdict_of(listing, phase, 0, machine)
    ours = "stuck" if v.stuck or v.position < len(p.trace.order) else ""
    ours = ours or ("race" if v.races else "doubled" if v.doubled else "left" if v.left else "")
    if bool(ours) != bool(truth):
        return f"differ: checker {ours or 'nothing'}, interleavings {truth or 'nothing'}"
    return truth


def schedule(draw: Random, name: str) -> tuple[Machine, Listing]:
    """A machine and a listing for it."""
    base = machines.load(name)
    machine = replace(
        base,
        event_ids=draw.choice((1, 2, 4)),
        queue_depth=draw.choice((1, 2, 3, 64)),
        unordered_pipes=frozenset(p for p in base.pipes if draw.random() < 0.5),
    )
    program = _program(draw, machine)
    if draw.random() < 0.4:
        return machine, npu.emit(_sprinkled(program, draw, machine), machine)
    final = InsertSync().run(program, Context(machine))
    assert isinstance(final, Program)
    listing = npu.emit(final, machine)
    for _ in range(draw.randrange(3)):
        changed = deque(islice(mutants(listing.phases[0], machine), draw.randrange(1, 90)), maxlen=1)
        listing = replace(listing, phases=tuple(phase for _, phase in changed) or listing.phases)
    return machine, listing


def _program(draw: Random, machine: Machine) -> Program:
    memory, vector = machine.roles["memory"], machine.roles["vector"]
    slots = [draw.choice((1, 1, 2)) for _ in range(3)]
    buffers = [Buffer("x", DType.F16, (MEMORY, ROW), memory, "inout")]
    at = 0
    for n, count in enumerate(slots):
        # Some buffers lie partly on their neighbours.
        offsets = tuple(at + k * 2 * ROW for k in range(count))
        buffers.append(Buffer(f"t{n}", DType.F16, (ROW,), vector, "local", count, offsets))
        at += draw.choice((count * 2 * ROW, count * 2 * ROW, ROW))
    loops = draw.random() < 0.5
    size = draw.randrange(2, 5 if loops else 9)
    body: list[Stmt] = [_work(draw, slots, "i" if loops else "") for _ in range(size)]
    if loops:
        around = [_work(draw, slots, "") for _ in range(draw.randrange(3))]
        cut = draw.randrange(len(around) + 1)
        body = [*around[:cut], Loop("i", draw.randrange(1, 4), tuple(body)), *around[cut:]]
    return Program("random", machine.name, tuple(buffers), (Loop("core", 1, tuple(body), True),))


def _work(draw: Random, slots: list[int], var: str) -> Instr:
    width = draw.choice((ROW, ROW // 2))
    dims = (("j", width),)

    def local() -> Access:
        n = draw.randrange(len(slots))
        turn = Affine.var(var) if var and draw.random() < 0.8 else Affine()
        return Access(f"t{n}", (_part(draw, width),), turn + draw.randrange(2))

    kind = draw.randrange(4)
    if kind < 2:
        return Instr("vector.add", dims, (local(),), (local(), local()))
    row = Affine.var(var) if var and draw.random() < 0.5 else Affine((), draw.randrange(MEMORY))
    memory = Access("x", (row, _part(draw, width)))
    if kind == 2:
        return Instr("copy_in.copy", dims, (local(),), (memory,))
    return Instr("copy_out.copy", dims, (memory,), (local(),))


def _part(draw: Random, width: int) -> Affine:
    return Affine.var("j") + draw.choice((0, ROW - width))


def _sprinkled(program: Program, draw: Random, machine: Machine) -> Program:
    """The program with sets, waits and barriers anywhere."""
    pipes = [p for p in machine.pipes if p in {r.pipe for r in machine.routes}][:4]

    def sync() -> Instr:
        one, two = draw.sample(pipes, 2)
        flag = (one, two, Affine((), draw.randrange(machine.event_ids)))
        kind = draw.choice(("set_flag", "wait_flag", "wait_flag", "barrier"))
        if kind == "barrier":
            name = draw.choice(("ALL", one, one))
            flag = (name, name, Affine())
        return Instr(f"sync.{kind}", flag=flag)

    def walk(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for s in body:
            while draw.random() < 0.35:
                i = sync()
                found.append(i)
                if i.op == "wait_flag" and draw.random() < 0.9:
                    found.insert(draw.randrange(len(found)), replace(i, opcode="sync.set_flag"))
            found.append(replace(s, body=walk(s.body)) if isinstance(s, Loop) else s)
        return tuple(found)

    return program.with_body(
        tuple(replace(s, body=walk(s.body)) if isinstance(s, Loop) else s for s in program.body)
    )


if __name__ == "__main__":
    sys.exit(main())
