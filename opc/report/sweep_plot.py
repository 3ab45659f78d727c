"""The picture of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from opc.errors import RuntimeCallError, fail
from opc.files import write_atomic


class PointLike(Protocol):
    """A point of a sweep."""

    @property
    def settings(self) -> tuple[str, ...]: ...
    @property
    def cycles(self) -> float: ...
    @property
    def source_order(self) -> float: ...


def plot(points: Mapping[str, Sequence[PointLike]], names: Sequence[str], machine: str, path: Path) -> None:
    """Draw cycles over the first figure, one line for each combination of the others; source order is dotted.

    Raises RuntimeCallError E0934 without matplotlib or for an ending it does not write, E0923 if ``path``
    cannot be written.
    """
    import io

    try:
        from matplotlib.figure import Figure
    except ImportError:
        message = "drawing needs matplotlib, which is not installed"
        raise fail(
            RuntimeCallError, "E0934", message, help="pip install 'opc-compiler[plot]', or leave out --plot"
        ) from None
    figure = Figure(figsize=(7.5, 1.2 + 3.6 * len(points)), layout="constrained")
    panels = figure.subplots(len(points), squeeze=False)[:, 0]
    for axes, (kernel, found) in zip(panels, points.items(), strict=True):
        _panel(axes, found, names)
        axes.set_title(f"{kernel} on {machine}; dotted: source order")
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix.lstrip(".") or "png", dpi=130)
    except ValueError as problem:
        raise fail(RuntimeCallError, "E0934", f"cannot draw '{path}': {problem}") from None
    write_atomic(path, buffer.getvalue())


def _panel(axes: Any, found: Sequence[PointLike], names: Sequence[str]) -> None:
    ticks = list(dict.fromkeys(p.settings[0] for p in found))
    lines: dict[tuple[str, ...], list[PointLike]] = {}
    for p in found:
        if p.cycles:
            lines.setdefault(p.settings[1:], []).append(p)
    for rest, line in lines.items():
        where = [ticks.index(p.settings[0]) for p in line]
        label = ", ".join(f"{n}={v}" for n, v in zip(names[1:], rest, strict=True)) or "reordered"
        (drawn,) = axes.plot(where, [p.cycles for p in line], marker="o", label=label)
        axes.plot(where, [p.source_order for p in line], ":", color=drawn.get_color())
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel=names[0], ylabel="cycles", ylim=(0, None))
    axes.grid(axis="y", alpha=0.3)
    if lines:
        axes.legend(fontsize="small")
