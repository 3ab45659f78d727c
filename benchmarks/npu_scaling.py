"""What list-schedule costs on straight code of 10^2 to 10^5 instructions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.plot import drawing
from opc import machine as machines
from opc.pipeline import Context
from opc.program.ir import Loop, Program
from opc.program.rewrite import substitute
from opc.program.text import parse_program
from passes.program.list_schedule import ListSchedule

MACHINE = "ascend910"
# Tiles of a convolution: 10 instructions on five pipes, two slots each.
TILES = """program v1 tiles machine ascend910 {
  buffer x: f16[COUNT,34,64]@gm input
  buffer w: f16[64,64]@gm input
  buffer y: f16[COUNT,16,64]@gm output
  buffer x1: f16[34,64]@l1 local slots 2
  buffer w1: f16[64,64]@l1 local
  buffer a: f16[16,64]@l0a local slots 2
  buffer b: f16[64,64]@l0b local
  buffer c: f32[16,64]@l0c local slots 2
  buffer t: f16[16,64]@ub local slots 2
  buffer u: f16[16,64]@ub local slots 2
  parallel core < 1 {
    copy_in.copy w1[k, n] = w[k, n] for k<64, n<64
    copy_in.copy b[k, n] = w1[k, n] for k<64, n<64
    loop i < COUNT {
      copy_in.copy x1{i}[h, v] = x[i, h, v] for h<34, v<64
      copy_in.copy a{i}[m, k] = x1{i}[m, k] for m<16, k<64
      cube.mma c{i}[m, n] = a{i}[m, k], b[k, n] for m<16, n<64, k<64 {init=0}
      copy_in.copy a{i}[m, k] = x1{i}[m + 16, k] for m<16, k<64
      cube.mma c{i}[m, n] = a{i}[m, k], b[k, n] for m<16, n<64, k<64 {init=1}
      scale.drain t{i}[m, n] = c{i}[m, n] for m<16, n<64 {scale=convert}
      vector.max u{i}[m, n] = t{i}[m, n], 0.0 for m<16, n<64
      vector.mul u{i}[m, n] = u{i}[m, n], 2.0 for m<16, n<64
      vector.add u{i}[m, n] = u{i}[m, n], t{i}[m, n] for m<16, n<64
      copy_out.copy y[i, m, n] = u{i}[m, n] for m<16, n<64
    }
  }
}
"""


@dataclass(frozen=True)
class Point:
    """Instructions of one body, and how long the pass took on it."""

    instructions: int
    seconds: float


def straight(instructions: int) -> Program:
    """The tiles as one body of about so many instructions."""
    program = parse_program(TILES.replace("COUNT", str(max(1, (instructions - 2) // 10))))
    core = program.body[0]
    assert isinstance(core, Loop)
    *first, tiles = core.body
    assert isinstance(tiles, Loop)
    unrolled = (substitute(s, {tiles.var: i}) for i in range(tiles.extent) for s in tiles.body)
    return program.with_body((replace(core, body=(*first, *unrolled)),))


def measure(instructions: int) -> Point:
    """Run the pass once."""
    program = straight(instructions)
    start = time.perf_counter()
    ListSchedule().run(program, Context(machines.load(MACHINE)))
    seconds = time.perf_counter() - start
    core = program.body[0]
    assert isinstance(core, Loop)
    return Point(len(core.body), seconds)


def plot(points: Sequence[Point], path: Path) -> str | None:
    """Draw the curve; why not, where that is impossible."""
    try:
        pyplot = drawing()
    except ImportError:
        return "matplotlib is not installed"
    figure, axis = pyplot.subplots(figsize=(6, 4))
    counts, seconds = [p.instructions for p in points], [p.seconds for p in points]
    axis.loglog(counts, seconds, marker="o", label="list-schedule")
    axis.loglog(counts, [seconds[-1] * n / counts[-1] for n in counts], linestyle=":", label="linear")
    axis.set_xlabel("instructions in one body")
    axis.set_ylabel("seconds")
    axis.legend()
    axis.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None
