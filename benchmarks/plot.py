"""A picture of a run: our speed over the best peer, shape by shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bars import over_best_peer
from benchmarks.case import Case
from benchmarks.engine import optional
from benchmarks.report import View, grouped, title
from benchmarks.results import Results, geometric_mean

_COLOURS = ("#1f6fb4", "#e08a1e")


def plot(results: Results, view: View, path: Path) -> str | None:
    """Draw into ``path``; why not, where that is impossible."""
    try:
        pyplot = drawing()
    except ImportError:
        return "matplotlib is not installed"
    groups = [cases for cases in grouped(results) if any(_bars(results, case, view) for case in cases)]
    if not groups:
        return "nothing to compare"
    figure, axes = pyplot.subplots(len(groups), 1, figsize=(11, 2.6 * len(groups) + 0.4), squeeze=False)
    for axis, cases in zip(axes[:, 0], groups, strict=True):
        _panel(axis, results, cases, view)
    figure.suptitle(f"opc's speed over the best of {', '.join(view.peers)}", fontsize=12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None


def drawing() -> Any:
    """Pyplot of matplotlib, without a window. Raises ImportError where it is not installed."""
    optional("matplotlib").use("Agg")
    return optional("matplotlib.pyplot")


def _bars(results: Results, case: Case, view: View) -> list[float]:
    """Our speed over the best peer, for every preference of engines; 0 where it is not known."""
    found = [over_best_peer(results, case, names, view.peers) or 0.0 for names in view.ours.values()]
    return found if any(found) else []


def _panel(axis: Any, results: Results, cases: list[Case], view: View) -> None:
    names = [case.name for case in cases]
    width = 0.8 / len(view.ours)
    for i, (label, colour) in enumerate(zip(view.ours, _COLOURS, strict=False)):
        heights = [(_bars(results, case, view) or [0.0] * len(view.ours))[i] for case in cases]
        mean = geometric_mean(h for h in heights if h)
        places = [x - 0.4 + width * (i + 0.5) for x in range(len(cases))]
        shown = f"{label}, geometric mean {mean:.2f}" if mean else label
        axis.bar(places, heights, width * 0.95, label=shown, color=colour)
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 8 else 30, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_title(title(cases[0]), fontsize=10, loc="left")
    axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
