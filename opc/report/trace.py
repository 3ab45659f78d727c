"""Chrome trace events of a timeline: opens in Perfetto, chrome://tracing and MindStudio Insight.

One process per core, one row per pipe, one slice per instruction, a flow arrow from each set of a flag to
the instruction it releases, and a slice for each wait that stalls its pipe. Times are microseconds of the
machine's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

ROWS = {"S": "SCALAR", "V": "VECTOR", "M": "CUBE", "FIX": "FIXP"}


class Slice(Protocol):
    """One instruction on a pipe, in cycles."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def complete(self) -> float: ...
    @property
    def pipe(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def text(self) -> str: ...


class Arrow(Protocol):
    """A flag from the pipe that sets it to the pipe that waits for it, in cycles."""

    @property
    def source(self) -> str: ...
    @property
    def set_time(self) -> float: ...
    @property
    def target(self) -> str: ...
    @property
    def wait_time(self) -> float: ...
    @property
    def event(self) -> str: ...


class TimelineLike(Protocol):
    """What a trace is drawn from (``opc.npu.Timeline`` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def pipes(self) -> tuple[str, ...]: ...
    @property
    def clock_mhz(self) -> float: ...
    def events(self) -> Iterable[Slice]: ...
    def stalls(self) -> Iterable[Slice]: ...
    def signals(self) -> Iterable[Arrow]: ...


def row(pipe: str) -> str:
    """The name of a pipe's row."""
    return ROWS.get(pipe, pipe)


def chrome_trace(timeline: TimelineLike, cores: int = 1) -> str:
    """The trace as JSON text, one event a line, the same for the same timeline.

    Cores differ in the data they move, not in time, so ``cores`` above 1 repeats the same picture.
    """
    rows = {pipe: n for n, pipe in enumerate(timeline.pipes)}
    clock = timeline.clock_mhz
    items: list[dict[str, Any]] = []
    for core in range(cores):
        items.append(_name("process_name", core, 0, f"{timeline.name} core {core}"))
        items += [_name("thread_name", core, n, row(pipe)) for pipe, n in rows.items()]
        items += [_sort(core, n) for n in rows.values()]
        items += [_slice(e, core, rows[e.pipe], clock, row(e.pipe)) for e in timeline.events()]
        items += [_slice(e, core, rows[e.pipe], clock, "stall") for e in timeline.stalls()]
        for number, signal in enumerate(timeline.signals()):
            items += _flow(signal, number * cores + core, core, rows, clock)
    body = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
    return '{"displayTimeUnit":"ns","traceEvents":[\n' + body + "\n]}\n"


def _time(cycles: float, clock_mhz: float) -> float:
    return round(cycles / clock_mhz, 6)


def _name(kind: str, core: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": core, "tid": thread, "args": {"name": name}}


def _sort(core: int, thread: int) -> dict[str, Any]:
    return {
        "ph": "M",
        "name": "thread_sort_index",
        "pid": core,
        "tid": thread,
        "args": {"sort_index": thread},
    }


def _slice(e: Slice, core: int, thread: int, clock_mhz: float, category: str) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": e.name,
        "cat": category,
        "pid": core,
        "tid": thread,
        "ts": _time(e.start, clock_mhz),
        "dur": _time(e.end - e.start, clock_mhz),
        "args": {
            "line": e.line,
            "text": e.text,
            "start": round(e.start, 3),
            "cycles": round(e.end - e.start, 3),
            "visible": round(e.complete, 3),
        },
    }


def _flow(s: Arrow, number: int, core: int, rows: dict[str, int], clock_mhz: float) -> list[dict[str, Any]]:
    shared = {"name": s.event, "cat": "flag", "id": number, "pid": core}
    # A viewer ties an arrow to the slice around its end, so it leaves just before the slice's edge.
    leaves = s.set_time - min(0.5, s.set_time / 2)
    return [
        {"ph": "s", **shared, "tid": rows[s.source], "ts": _time(leaves, clock_mhz)},
        {"ph": "f", "bp": "e", **shared, "tid": rows[s.target], "ts": _time(s.wait_time, clock_mhz)},
    ]
