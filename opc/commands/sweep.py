"""``opc sweep FILE.k --vary l1.capacity=512K,1M``: what a kernel would cost on other machines and at other sizes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from opc import driver
from opc.commands.options import add_numerics, add_source, npu_of, source
from opc.errors import MachineError, OpcError, RuntimeCallError, fail
from opc.lang import File
from opc.machine import Machine
from opc.machine.vary import varied
from opc.report.tables import table

LIMIT = 256  # points of one sweep
UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
Figure = int | float


@dataclass(frozen=True)
class Axis:
    """One thing that varies: a figure of the machine file (``cube.latency``), or a size of the kernel (``C``)."""

    name: str
    texts: tuple[str, ...]  # as typed, which is how they are shown
    values: tuple[Figure, ...]

    @property
    def is_size(self) -> bool:
        return "." not in self.name and self.name not in ("cores", "clock_mhz")


@dataclass(frozen=True)
class Point:
    """One point of the sweep: what was set, and what came of it (``code``: why nothing did)."""

    settings: tuple[str, ...]
    cycles: float = 0.0
    source_order: float = 0.0
    microseconds: float = 0.0
    busiest: str = ""
    busy: float = 0.0
    code: str = ""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_numerics(parser)
    parser.add_argument(
        "--machine", metavar="NAME|FILE.toml", default=driver.NPU, help="the machine to start from"
    )
    parser.add_argument(
        "--vary", type=axis, action="append", required=True, metavar="FIGURE=A,B,C", help="a figure of the"
        " machine (l1.capacity=512K,1M) or a size of the kernel (C=32,64); several: every combination",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="also draw the cycles (.png, .svg or .pdf)")


def axis(text: str) -> Axis:
    """Read ``l1.capacity=512K,1M``; raises ArgumentTypeError, which argparse reports as a usage error."""
    name, equals, values = (part.strip() for part in text.partition("="))
    texts = tuple(v.strip() for v in values.split(","))
    if not equals or not name.replace(".", "_").isidentifier() or not all(texts):
        raise argparse.ArgumentTypeError(f"'{text}' is not FIGURE=VALUE,VALUE")
    return Axis(name, texts, tuple(map(_figure, texts)))


def _figure(text: str) -> Figure:
    digits, unit = (text[:-1], UNITS[text[-1]]) if text[-1] in UNITS else (text, 1)
    try:
        value = float(digits) * unit
        return int(value) if value == int(value) else value
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number, nor one with K, M or G") from None


def run(options: argparse.Namespace) -> int:
    """Build and simulate every point, tell how far it got, then print the table."""
    axes: list[Axis] = options.vary
    count = prod(len(a.values) for a in axes)
    if count > LIMIT:
        message = f"{count} points are more than {LIMIT}"
        raise fail(RuntimeCallError, "E0935", message, help="vary fewer figures, or give fewer values")
    file = source(options)
    machine = npu_of(options)
    found: dict[str, list[Point]] = {}
    for kernel in _kernels(options, file):
        points = found[kernel] = []
        for chosen in product(*(zip(a.texts, a.values, strict=True) for a in axes)):
            _tell(f"{kernel} {len(points) + 1}/{count}")
            points.append(_point(options, file, kernel, machine, axes, chosen))
    _tell("")
    _show(found, axes, options)
    if options.plot:
        from opc.report.sweep_plot import plot

        plot(found, [a.name for a in axes], machine.name, Path(options.plot))
    if not any(p.cycles for points in found.values() for p in points):
        sys.stderr.write("no point of the sweep can be built; `opc explain` tells what a code means\n")
        return 1
    return 0


def _kernels(options: argparse.Namespace, file: File) -> list[str]:
    from opc.lang import kernel_names

    return kernel_names(file, only=options.kernel)


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _point(
    options: argparse.Namespace,
    file: File,
    kernel: str,
    base: Machine,
    axes: list[Axis],
    chosen: tuple[tuple[str, Figure], ...],
) -> Point:
    """One point. A machine that cannot hold the kernel, and a size it may not have, are results as well."""
    settings = tuple(text for text, _ in chosen)
    named = list(zip(axes, (value for _, value in chosen), strict=True))
    machine = varied(base, {a.name: v for a, v in named if not a.is_size})
    sizes = {k: v for group in options.set for k, v in group.items()}
    sizes |= {a.name: v for a, v in named if a.is_size}
    function = driver.specialise(
        file, file.name, machine, kernel, sizes, options.dtype, options.layout, options.mixed
    )
    try:
        return _simulated(driver.build(function, machine, numerics=options.numerics), settings)
    except MachineError as error:
        return Point(settings, code=_code(error))


def _simulated(built: Any, settings: tuple[str, ...]) -> Point:
    kernel = driver.npu_kernel(built)
    assert kernel.proofs
    timeline = kernel.timeline
    before = driver.npu_kernel(driver.in_source_order(built)).timeline
    busiest = max(timeline.busy_share, key=lambda p: timeline.busy_share[p])
    share = timeline.busy_share[busiest]
    return Point(settings, timeline.cycles, before.cycles, timeline.microseconds, busiest, share)


def _code(error: OpcError) -> str:
    return error.diagnostics[0].code


def _show(found: Mapping[str, list[Point]], axes: list[Axis], options: argparse.Namespace) -> None:
    if options.json:
        facts = {
            kernel: [{**dict(zip((a.name for a in axes), p.settings, strict=True)), **_facts(p)} for p in points]
            for kernel, points in found.items()
        }  # fmt: skip
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    header = (*(a.name for a in axes), "cycles", "us", "of the best", "order gains", "busiest", "busy")
    for kernel, points in found.items():
        sys.stdout.write(f"{kernel}\n{table(header, _rows(points))}\n\n")


def _facts(p: Point) -> dict[str, object]:
    if p.code:
        return {"error": p.code}
    return {
        "cycles": p.cycles,
        "source order": p.source_order,
        "microseconds": p.microseconds,
        "busiest": p.busiest,
        "busy": p.busy,
    }


def _rows(points: list[Point]) -> Iterator[tuple[str, ...]]:
    best = min((p.cycles for p in points if p.cycles), default=0.0)
    for p in points:
        if p.code:
            yield (*p.settings, "n/a", "n/a", "n/a", "n/a", p.code, "n/a")
            continue
        gain, near = f"{p.source_order / p.cycles:.2f}x", f"{p.cycles / best:.2f}x"
        cycles = (f"{p.cycles:,.0f}", f"{p.microseconds:,.2f}", near)
        yield (*p.settings, *cycles, gain, p.busiest, f"{p.busy:.1%}")
