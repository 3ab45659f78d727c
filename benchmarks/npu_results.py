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

    def over(self, other: Row | None, slow: str) -> float | None:
        """How many times mode d's cycles a mode of another run of this kernel takes."""
        if other is None or slow not in other.modes or "d" not in self.modes:
            return None
        return other.modes[slow].cycles / self.modes["d"].cycles

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

    What fusing gains is stated for fused kernels under the licence, over separate operators as they are written; what
    order gains for the same kernels, with the mean without the licence beside it; the distance from the bound over the
    runs without and with it, each against the bound of its own epilogue.
    """
    rows = tuple(rows)
    plain = [r for r in rows if r.roles == 1]
    double = [r for r in rows if r.roles > 1]
    bound = _cases(plain, lambda r: r.over_attainable)
    values = [value for _, value in bound]
    lines = [
        *_fused("total_gain", 3.0, plain, "a"),
        *_fused("fusion_gain", 1.4, plain, "a2"),
        *_ordered("order_gain", 1.3, double),
        *Least("busiest_pipe_geomean", 1.10, bound, geometric_mean(values)).lines(),
        *Least("busiest_pipe_worst", 1.25, bound, max(values, default=None)).lines()[len(bound) :],
    ]
    order = geometric_mean(v for _, v in _cases(plain, lambda r: r.gain("c")))
    return [*lines, *([f"order alone on plain epilogues: {order:.3f} (no bar)"] if order else [])]


def _cases(rows: Sequence[Row], value: Callable[[Row], float | None]) -> tuple[tuple[str, float], ...]:
    return tuple((r.label, found) for r in rows if (found := value(r)) is not None)


def _fused(name: str, target: float, rows: list[Row], mode: str) -> list[str]:
    """The bar on what (d) gains over a mode of separate operators."""
    written = {r.name: r for r in rows if r.numerics == STRICT}
    licensed = [r for r in rows if r.numerics == FAST]
    if not licensed or not written:
        return _mean(name, target, rows, lambda r: r.gain(mode))
    without, both = (
        geometric_mean(v for _, v in _cases(some, lambda r: r.gain(mode)))
        for some in (list(written.values()), licensed)
    )
    shown = [
        f"  {about}, geometric mean: {found:.3f}"
        for about, found in (
            (f"({mode})/(d) without the licence", without),
            (f"({mode})/(d) with the licence for both, separate operators as x * A + B", both),
        )
        if found is not None
    ]
    bar = _mean(name, target, licensed, lambda r: r.over(written.get(r.name), mode))
    return [*bar[:-2], *shown, *bar[-2:]]


def _ordered(name: str, target: float, rows: list[Row]) -> list[str]:
    """The bar on what order gains over the source order of the same kernel: under the licence, if it was measured."""
    written, licensed = ([r for r in rows if r.numerics == n] for n in (STRICT, FAST))
    without = geometric_mean(v for _, v in _cases(written, lambda r: r.gain("c")))
    bar = _mean(name, target, licensed or written, lambda r: r.gain("c"))
    if without is None or not licensed:
        return bar
    return [*bar[:-2], f"  (c)/(d) without the licence, geometric mean: {without:.3f}", *bar[-2:]]


def _mean(name: str, target: float, rows: list[Row], value: Callable[[Row], float | None]) -> list[str]:
    """A bar on the geometric mean."""
    cases = _cases(rows, value)
    mean = geometric_mean(v for _, v in cases)
    situations = () if mean is None else (Situation(f"geometric mean of {len(cases)}", mean, target),)
    return [*(f"  {label}: {v:.3f}" for label, v in cases), *Bar(name, target, situations).lines()]


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
