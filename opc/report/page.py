"""The offline HTML report: one file that holds its data, its style and its script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opc.report.trace import Arrow, TimelineLike, row

LIMIT = 60_000  # instructions of a timeline that are drawn; the first ones of a longer one
_FOLDER = Path(__file__).parent


def page(title: str, data: Mapping[str, Any]) -> str:
    """The report on ``data``, a tree of plain values; nothing in it can end the script that holds it."""
    text = json.dumps(data, separators=(",", ":"), sort_keys=True).replace("<", "\\u003c")
    parts = {
        "TITLE": title.replace("&", "&amp;").replace("<", "&lt;"),
        "STYLE": _asset("page.css"),
        "SCRIPT": _asset("page.js"),
        "DATA": text,
    }
    found = _asset("page.html")
    for name, part in parts.items():
        found = found.replace(f"@{name}@", part, 1)
    return found


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def drawn(timeline: TimelineLike, label: str, lines: Mapping[str, int]) -> dict[str, Any]:
    """A timeline as plain values. ``lines``: where in the listing an instruction stands, by its text."""
    pipes = {pipe: n for n, pipe in enumerate(timeline.pipes)}
    kinds: dict[tuple[str, str, int], int] = {}
    slices: list[list[float]] = []
    for e in timeline.events():
        if len(slices) == LIMIT:
            break
        kind = kinds.setdefault((e.pipe, e.text, e.line), len(kinds))
        slices.append([kind, *_rounded(e.start, e.end, e.complete)])
    end = slices[-1][1] if len(slices) == LIMIT else float("inf")
    arrows = (a for a in timeline.signals() if a.wait_time <= end)
    return {
        "label": label,
        "pipes": [row(p) for p in pipes],
        "kinds": [[pipes[p], text, line, lines.get(text, 0)] for p, text, line in kinds],
        "slices": slices,
        "stalls": _stalls(timeline, pipes, end),
        "arrows": [_arrow(a, pipes) for a in arrows],
        "whole": end == float("inf"),
    }


def _arrow(a: Arrow, pipes: Mapping[str, int]) -> list[Any]:
    ends = (pipes[a.source], *_rounded(a.set_time)), (pipes[a.target], *_rounded(a.wait_time))
    return [*ends[0], *ends[1], a.event]


def _stalls(timeline: TimelineLike, pipes: Mapping[str, int], end: float) -> list[list[Any]]:
    return [[pipes[e.pipe], *_rounded(e.start, e.end), e.text] for e in timeline.stalls() if e.start <= end]


def _rounded(*cycles: float) -> Iterable[float]:
    return (round(c, 2) for c in cycles)
