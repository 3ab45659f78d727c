"""Predicts AMX kernels on a host without AMX: ``python -m tests.cpu.tile_model [batch] [layer ...]``.

Every ResNet-50 convolution is compiled for machine ``amx``, its real machine code is run with trapped tile
instructions, and the trace goes through a model of the caches; what the planner thinks that crosses the second cache
level bounds it too. These numbers are a lower bound on time: staging copies and the epilogue are not in the trace.
Beside them stand the price by which the plan was chosen and, where there is one, what a kernel written for this
shape reached on a Xeon with AMX. What the order of instructions gains is modelled on program IR, for
one core (``opc/program/window.py``); beside it stands the share of sums that have no other work among their
products.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

import opc
from kernels_dsl import source
from opc import driver, machine
from opc.build import run_passes
from opc.program.ir import Instr, Program, Stmt
from opc.program.pipes import pipe_of
from opc.program.window import core_cycles
from opc.tensor.ir import Function
from passes.lowering._matmul_tiles import TileNest
from passes.lowering._plan_tiles import Priced
from passes.lowering.tile import Lowering
from tests.cpu import tile_trap

# c, h, k, window, stride, padding: the 23 distinct convolutions of ResNet-50 v1.5 in the order of the network.
LAYERS = (
    (3, 224, 64, 7, 2, 3), (64, 56, 64, 1, 1, 0), (64, 56, 64, 3, 1, 1), (64, 56, 256, 1, 1, 0),
    (256, 56, 64, 1, 1, 0), (256, 56, 128, 1, 1, 0), (128, 56, 128, 3, 2, 1), (128, 28, 512, 1, 1, 0),
    (256, 56, 512, 1, 2, 0), (512, 28, 128, 1, 1, 0), (128, 28, 128, 3, 1, 1), (512, 28, 256, 1, 1, 0),
    (256, 28, 256, 3, 2, 1), (256, 14, 1024, 1, 1, 0), (512, 28, 1024, 1, 2, 0), (1024, 14, 256, 1, 1, 0),
    (256, 14, 256, 3, 1, 1), (1024, 14, 512, 1, 1, 0), (512, 14, 512, 3, 2, 1), (512, 7, 2048, 1, 1, 0),
    (1024, 14, 2048, 1, 2, 0), (2048, 7, 512, 1, 1, 0), (512, 7, 512, 3, 1, 1),
)  # fmt: skip
# Measured on a Xeon with AMX: a product takes 16 cycles, two rows come from L1 a cycle, a stream of tiles from L2 runs
# at 2.7 TFLOP/s for one load a product at 3.6 GHz (22 cycles a KiB), L3 gives 7.5 bytes a cycle.
RATES = (16.0, 0.5, 22 / 16, 64 / 7.5)
CLOCK_GHZ = 3.6
# TFLOP/s of trial kernels on that Xeon, the best of some dozens of settings for each shape, one thread, epilogue
# included, input already padded: layer number -> batch 1, batch 8.
TRIALS = {
    3: (2.71, 2.58), 4: (1.31, 1.06), 5: (1.79, 1.39), 11: (2.68, 2.63), 14: (2.24, 2.62), 17: (2.69, 2.60),
    20: (1.23, 2.68), 23: (1.31, 2.15),
}  # fmt: skip
_WINDOW = 64  # products within which tile loads overlap
_LIMIT = 1 << 22
_STEPS = 60_000  # instructions that are looked at for sums that stand alone


class _Record(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "reg", "rm", "vvvv", "rows", "bytes")),
        ("address", ctypes.c_uint64),
        ("stride", ctypes.c_int64),
    )


class _Rates(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_double) for name in ("cube", "l1", "l2", "l3"))


class Result(ctypes.Structure):
    """Cycles, products, tile loads, and the lines that each level of cache delivered."""

    _fields_ = (
        ("cycles", ctypes.c_double),
        *((name, ctypes.c_uint64) for name in ("products", "loads", "l1", "l2", "l3")),
    )


@cache
def _library() -> ctypes.CDLL:
    folder = tempfile.mkdtemp()
    target, text = Path(folder) / "tile_model.so", Path(__file__).with_suffix(".c")
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(target), str(text)]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))
    library.model_run.restype = Result
    library.model_run.argtypes = [ctypes.c_void_p, ctypes.c_uint64, _Rates, ctypes.c_uint64]
    return library


def runnable_machine(folder: Path) -> Path:
    """The machine ``amx`` without the vector features that this host may lack; its tiles are trapped."""
    text = Path(machine.__file__).with_name("amx.toml").read_text(encoding="utf-8")
    kept = "\n".join(
        'features = ["avx2", "fma", "f16c", "amx-tile", "amx-bf16"]' if line.startswith("features") else line
        for line in text.splitlines()
    )
    target = folder / "amx.toml"
    target.write_text(kept, encoding="utf-8")
    return target


def measure(layer: tuple[int, ...], batch: int, folder: Path, patch: pytest.MonkeyPatch) -> Result:
    """The model's result of one layer, conv + batch norm + ReLU in bf16, channels last, caches warm."""
    k = layer[2]
    # Weights that are fetched ahead come while other products run.
    window = _LIMIT if planned(layer, batch).plan.prefetch == "on" else _WINDOW
    with tile_trap.trapping(folder, patch) as trapped:
        kernel = opc.compile(
            source("conv_bn_relu"), layout="nhwc", dtype="bf16", threads=1, machine=runnable_machine(folder),
            **sizes(layer, batch),
        )  # fmt: skip
        ones = np.ones(k, np.float32)
        bound = kernel.bind(
            w=np.zeros(kernel.empty("w").shape, kernel.empty("w").dtype),
            gamma=ones, beta=ones, mean=ones, var=ones,
        )  # fmt: skip
        x, y = kernel.empty("x"), kernel.empty("y")
        x[...] = 0
        bound(x, out=y)
        records = np.zeros(_LIMIT * ctypes.sizeof(_Record), np.uint8)
        model = _library()
        model.model_forget()
        for _ in range(2):  # the first run warms the caches
            trap = tile_trap.library(folder)
            trap.trap_record(ctypes.c_void_p(records.ctypes.data), ctypes.c_uint64(_LIMIT))
            bound(x, out=y)
            ran = trap.trap_record(None, ctypes.c_uint64(0))
            result: Result = model.model_run(records.ctypes.data, min(ran, _LIMIT), _Rates(*RATES), window)
    assert trapped.faults == 0, trapped.message
    result.cycles = max(result.cycles, crossing(layer, batch) / 64 * RATES[3])
    return result


def crossing(layer: tuple[int, ...], batch: int) -> int:
    """Bytes that a run brings from beyond the second cache level or sends there, each once; 0 if all stay near."""
    c, h, k, window, stride, pad = layer
    side = (h + 2 * pad - window) // stride + 1
    images, results = c * (h if window > 1 else side) ** 2, k * side**2
    total = 2 * (batch * (images + results) + c * k * window**2)
    return total if total > machine.load("amx").role("stage").capacity * 3 // 2 else 0


def planned(layer: tuple[int, ...], batch: int) -> Priced:
    """The plan that lowering chooses, and its price."""
    amx = machine.load("amx")
    arranged, _ = run_passes(specialised(layer, batch), driver.pipeline("tensor"), amx)
    (found,) = Lowering(arranged, amx, False).contractions()
    assert isinstance(found, TileNest)
    return found.priced[0]


def specialised(layer: tuple[int, ...], batch: int) -> Function:
    """The layer's tensor IR."""
    return driver.specialise(
        source("conv_bn_relu"), "conv_bn_relu.k", machine.load("amx"), sizes=sizes(layer, batch), dtype="bf16",
        layout="nhwc",
    )  # fmt: skip


def sizes(layer: tuple[int, ...], batch: int) -> dict[str, int]:
    """The sizes of the convolution kernel for a layer."""
    c, h, k, window, stride, pad = layer
    return {
        "N": batch,
        "C": c,
        "H": h,
        "W": h,
        "K": k,
        "R": window,
        "S": window,
        "stride": stride,
        "pad": pad,
    }


def order(layer: tuple[int, ...], batch: int) -> tuple[float, float]:
    """(time in source order over time as scheduled, share of the sums that stand alone)."""
    amx = machine.load("amx")
    built = driver.build(specialised(layer, batch), amx)
    plain, own = driver.in_source_order(built).module.run, built.module.run
    return core_cycles(plain, amx) / core_cycles(own, amx), alone(own, amx)


def alone(program: Program, amx: machine.Machine) -> float:
    """The share of sums with nothing but products from the first to the last; one accumulator stands for its block."""
    table = program.table()
    first = ""
    sums: list[str] = []
    for i in islice(_executed(program.body), _STEPS):
        pipe = pipe_of(i, table, amx)
        if i.opcode == "vector.copy" and pipe == amx.cube_pipe:
            first = first or i.dst[0].buffer
            sums += [""] if i.dst[0].buffer == first else []
        elif sums and pipe in (amx.cube_pipe, amx.vector_pipe):
            sums[-1] += "p" if pipe == amx.cube_pipe else "v"
    found = ["v" in s.strip("v") for s in sums if "p" in s]
    return found.count(False) / max(1, len(found))


def _executed(body: tuple[Stmt, ...]) -> Iterator[Instr]:
    """Instructions in the order of execution; of a parallel loop the first iteration."""
    for stmt in body:
        if isinstance(stmt, Instr):
            yield stmt
        else:
            for _ in range(1 if stmt.parallel else stmt.extent):
                yield from _executed(stmt.body)


def main(batch: int, chosen: list[int]) -> None:
    """Print the table of the chosen layers (numbered from 1; all if none is named)."""
    table = Table(
        "layer", "TFLOP/s", "of peak", "price", "trial", "loads", "L1", "L2", "L3 (MiB)", "order", "alone"
    )
    shares, gains, agreement = [], [], []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for number in chosen or range(1, len(LAYERS) + 1):
            c, h, k, window, stride, pad = layer = LAYERS[number - 1]
            gain, lone = order(layer, batch)
            r = measure(layer, batch, Path(folder), patch)
            pixels = batch * ((h + 2 * pad - window) // stride + 1) ** 2
            flops = 2.0 * pixels * c * k * window * window
            shares.append(flops / 1024 / r.cycles)
            gains.append(gain)
            mib = [f"{lines * 64 / 2**20:.2f}" for lines in (r.l1, r.l2, r.l3)]
            rate, priced = (flops / n * CLOCK_GHZ / 1e3 for n in (r.cycles, planned(layer, batch).cycles))
            trial = dict(zip((1, 8), TRIALS.get(number, ()), strict=False)).get(batch)
            if trial:
                agreement += [priced / trial]
            rates = [f"{rate:.2f}", f"{shares[-1]:.2f}", f"{priced:.2f}", f"{trial:.2f}" if trial else "-"]
            name = f"c{number:02d} {c}x{h}->{k} {window}x{window}/{stride}"
            model = [f"{gain:.3f}", f"{lone:.0%}"]
            table.add_row(name, *rates, f"{r.loads / r.products:.2f}", *mib, *model)
    Console(width=120).print(table)
    means = {"share of peak": shares, "gain of the order": gains, "price's speed over the trials'": agreement}
    for what, values in means.items():
        if values:
            print(f"geometric mean of the {what}: {np.exp(np.mean(np.log(values))):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, [int(a) for a in sys.argv[2:]])
