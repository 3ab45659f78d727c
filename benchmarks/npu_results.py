"""What was simulated, layer by layer, and the bars that are made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.bars import Bar, Least, Situation
from benchmarks.npu_bound import Bound
from benchmarks.npu_modes import Measured
from benchmarks.results import geometric_mean
from opc.numerics import FAST, STRICT

_FORMAT = 2  # rows without and with the licence


@dataclass(frozen=True)
class Row:
    """One kernel on one machine, in every mode. ``problems``: why a mode is missing; ``numerics``: what the modes, and
    the bound with them, may do to rounding.
    """

    name: str
    shape: str
    roles: int
    bound: Bound
    modes: dict[str, Measured]
    problems: dict[str, str] = field(default_factory=dict)
    numerics: str = STRICT

    @property
    def label(self) -> str:
        """The kernel, with a + under the licence."""
        return f"{self.name}+" if self.numerics == FAST else self.name

    def gain(self, slow: str, fast: str = "d") -> float | None:
        """How many times the cycles of one mode another takes."""
        if slow not in self.modes or fast not in self.modes:
            return None
        return self.modes[slow].cycles / self.modes[fast].cycles

    @property
    def over_bound(self) -> float | None:
        """Mode d over the bound alone."""
        return self.modes["d"].cycles / self.bound.cycles if "d" in self.modes else None

    @property
    def over_attainable(self) -> float | None:
        """Mode d over the bound with one tile's fill and drain."""
        return self.modes["d"].cycles / self.bound.attainable if "d" in self.modes else None

    @property
    def utilisation(self) -> float | None:
        """Share of mode d's cycles that the cube would need for the operator's blocks."""
        return self.bound.cube / self.modes["d"].cycles if "d" in self.modes else None


def bars(rows: Iterable[Row]) -> list[str]:
    """The lines of every bar, each below its cases.

    What fusing gains is stated under the licence, which separate operators have as well, where that was run; order and
    the distance from the bound over the runs without and with it, each against the bound of its own epilogue.
    """
    rows = tuple(rows)
    plain = [r for r in rows if r.roles == 1]
    double = [r for r in rows if r.roles > 1]
    without = [r for r in plain if r.numerics == STRICT]
    licensed = [r for r in plain if r.numerics == FAST] or without
    bound = _cases(plain, lambda r: r.over_attainable)
    values = [value for _, value in bound]
    lines = [
        *_mean("total_gain", 3.0, licensed, lambda r: r.gain("a"), without),
        *_mean("fusion_gain", 1.4, licensed, lambda r: r.gain("a2"), without),
        *_mean("order_gain", 1.3, double, lambda r: r.gain("c")),
        *Least("busiest_pipe_geomean", 1.10, bound, geometric_mean(values)).lines(),
        *Least("busiest_pipe_worst", 1.25, bound, max(values, default=None)).lines()[len(bound) :],
    ]
    order = geometric_mean(v for _, v in _cases(plain, lambda r: r.gain("c")))
    return [*lines, *([f"order alone on plain epilogues: {order:.3f} (no bar)"] if order else [])]


def _cases(rows: Sequence[Row], value: Callable[[Row], float | None]) -> tuple[tuple[str, float], ...]:
    return tuple((r.label, found) for r in rows if (found := value(r)) is not None)


def _mean(
    name: str,
    target: float,
    rows: list[Row],
    value: Callable[[Row], float | None],
    without: Sequence[Row] = (),
) -> list[str]:
    """A bar on the geometric mean; ``without`` the licence it is shown only."""
    cases = _cases(rows, value)
    mean = geometric_mean(v for _, v in cases)
    situations = () if mean is None else (Situation(f"geometric mean of {len(cases)}", mean, target),)
    strict = geometric_mean(v for _, v in _cases(without, value)) if without and without != rows else None
    shown = (
        [] if strict is None else [f"  without the licence, geometric mean of {len(without)}: {strict:.3f}"]
    )
    return [*(f"  {label}: {v:.3f}" for label, v in cases), *shown, *Bar(name, target, situations).lines()]


def write(path: Path, machines: dict[str, list[Row]], lines: list[str]) -> None:
    """Write everything as JSON."""
    from opc.files import write_atomic

    tables = {machine: [_plain(row) for row in rows] for machine, rows in machines.items()}
    write_atomic(path, json.dumps({"format": _FORMAT, "bars": lines, "machines": tables}, indent=1) + "\n")


def _plain(row: Row) -> dict[str, object]:
    return {
        **asdict(row),
        "busiest": row.bound.busiest,
        "over_bound": row.over_bound,
        "over_attainable": row.over_attainable,
    }
