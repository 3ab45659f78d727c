"""Tables and the picture of a run of ``benchmarks/npu.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.npu_modes import MODES
from benchmarks.npu_results import Row
from benchmarks.plot import drawing
from opc.numerics import FAST, STRICT

_HEAD = (
    "layer",
    "shape",
    *MODES,
    "bound",
    "edges",
    "pipe",
    "busy",
    "d/b",
    "d/b+e",
    "a/d",
    "a2/d",
    "c/d",
    "cube",
)


_LICENCE = {
    STRICT: "without the licence: batch norm is subtract, multiply and add",
    FAST: "under --numerics fast: fused modes fold batch norm into weights and bias, and the bound is that of the rest;"
    " separate operators compute x * A + B",
}


def table(machine: str, rows: Sequence[Row], numerics: str) -> str:
    """One line per kernel: cycles by mode, the bound, the ratios."""
    from opc.report.tables import table as draw

    about = [f"  {m.name:<3} {m.about}" for m in MODES.values()]
    return "\n".join(
        [
            f"{machine}: simulated cycles of the busiest core, {_LICENCE[numerics]}",
            *about,
            "  bound, edges: of the busiest pipe, from operator and machine file; one tile's fill and drain",
            "  busy: how long that pipe worked in (d); cube: its blocks as a share of (d)",
            *draw(_HEAD, [_line(r) for r in rows]).splitlines(),
            *(f"  {r.label} {mode}: {why}" for r in rows for mode, why in r.problems.items()),
        ]
    )


def _line(r: Row) -> tuple[str, ...]:
    cycles = [f"{r.modes[m].cycles:,.0f}" if m in r.modes else "-" for m in MODES]
    ratios = (r.over_bound, r.over_attainable, r.gain("a"), r.gain("a2"), r.gain("c"))
    busy = f"{r.modes['d'].busy[r.bound.busiest]:,.0f}" if "d" in r.modes else "-"
    cube = f"{r.utilisation:.0%}" if r.utilisation is not None else "-"
    bound = (f"{r.bound.cycles:,.0f}", f"{r.bound.edges:,.0f}", r.bound.busiest, busy)
    return (r.label, r.shape, *cycles, *bound, *("-" if x is None else f"{x:.2f}" for x in ratios), cube)


def plot(machine: str, rows: Sequence[Row], path: Path) -> str | None:
    """Draw cycles over the bound, mode by mode; why not, where that is impossible."""
    try:
        pyplot = drawing()
    except ImportError:
        return "matplotlib is not installed"
    figure, axes = pyplot.subplots(figsize=(12, 4.2))
    width = 0.8 / len(MODES)
    for i, mode in enumerate(MODES.values()):
        places = [x - 0.4 + width * (i + 0.5) for x in range(len(rows))]
        heights = [
            r.modes[mode.name].cycles / r.bound.attainable if mode.name in r.modes else 0 for r in rows
        ]
        axes.bar(places, heights, width * 0.95, label=f"{mode.name}: {mode.about}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    names = [f"{r.label}\n{r.bound.busiest}" for r in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("cycles over the bound\nwith one tile's fill and drain")
    axes.set_title(f"{machine}: layers of ResNet-50 and the pipe that bounds each", fontsize=10, loc="left")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left", frameon=False, ncols=2)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None
