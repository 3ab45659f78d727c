"""What was measured: samples per engine, case and set of processes; medians, minima, paired ratios; JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.case import Case

_FORMAT = 1
CONTENDED = 0.5  # a larger share of disturbed runs leaves only the shortest to be believed


@dataclass(frozen=True)
class Sample:
    """One engine on one case in one set of processes, in seconds; a round is a few calls in a row, and the
    engines take rounds in turn, so that round ``i`` of any two is a pair.
    """

    process: int
    case: Case
    engine: str
    rounds: tuple[float, ...]  # median of every round
    best: float
    runs: int
    contended: float  # share of runs that lost the core to somebody
    memory: int | None = None  # most bytes that a call held at once beyond its arguments


@dataclass
class Results:
    """Everything a report is made of."""

    settings: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)  # "f32/1": operations a second on one thread
    failures: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    checked: dict[str, float] = field(default_factory=dict)  # worst error over bound, by engine
    simulated: dict[str, dict[str, float]] = field(default_factory=dict)  # NPU cycles by problem and mode

    def cases(self) -> list[Case]:
        """Every case measured, in the order of the tables."""
        return sorted(
            {s.case for s in self.samples}, key=lambda c: (c.dtype != "f32", c.batch, c.threads, c.name)
        )

    def of(self, case: Case, engine: str) -> list[Sample]:
        """One per set of processes."""
        return [s for s in self.samples if s.case == case and s.engine == engine]

    def median(self, case: Case, engine: str) -> float | None:
        """Seconds: median over sets of the median over rounds."""
        found = [statistics.median(s.rounds) for s in self.of(case, engine)]
        return statistics.median(found) if found else None

    def best(self, case: Case, engine: str) -> float | None:
        """Shortest run."""
        return min((s.best for s in self.of(case, engine)), default=None)

    def memory(self, case: Case, engine: str) -> int | None:
        """Most bytes that a call held."""
        return max((s.memory for s in self.of(case, engine) if s.memory is not None), default=None)

    def speedup(self, case: Case, engine: str, over: str) -> float | None:
        """How many times faster ``engine`` is than ``over``: median over sets of the median of paired ratios."""
        theirs = {s.process: s for s in self.of(case, over)}
        found = [ratio(theirs[s.process], s) for s in self.of(case, engine) if s.process in theirs]
        return statistics.median(found) if found else None

    def fastest(self, case: Case, engines: Iterable[str]) -> str | None:
        """The engine of the least median time."""
        times = {e: t for e in engines if (t := self.median(case, e)) is not None}
        return min(times, key=lambda e: times[e]) if times else None

    def merge(self, other: Results) -> None:
        """Take in another run's samples, as further sets of processes where they measured the same."""
        shift = 1 + max((s.process for s in self.samples), default=-1)
        self.samples += [Sample(**{**vars_of(s), "process": s.process + shift}) for s in other.samples]
        self.engines |= other.engines
        self.missing = {k: v for k, v in (self.missing | other.missing).items() if k not in self.engines}
        self.peaks = {k: max(self.peaks.get(k, 0), v) for k, v in (self.peaks | other.peaks).items()}
        self.failures += other.failures
        self.checked = {k: max(v, other.checked.get(k, 0)) for k, v in (other.checked | self.checked).items()}
        self.settings = self.settings or other.settings
        self.simulated |= other.simulated

    def write(self, path: Path, bars: Sequence[str] = ()) -> None:
        """Write JSON, with the lines of the bars for whoever reads no more."""
        from opc.files import write_atomic

        write_atomic(
            path, json.dumps({"format": _FORMAT, "bars": list(bars), **asdict(self)}, indent=1) + "\n"
        )

    @staticmethod
    def read(path: Path) -> Results:
        """What ``write`` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ValueError(f"{path} was written by another version of the benchmark")
        rows, _ = found.pop("samples"), found.pop("bars")
        samples = [
            Sample(**{**row, "case": Case(**row["case"]), "rounds": tuple(row["rounds"])}) for row in rows
        ]
        return Results(samples=samples, **found)


def vars_of(sample: Sample) -> dict[str, Any]:
    """The fields of a sample, not copied."""
    return {name: getattr(sample, name) for name in Sample.__dataclass_fields__}


def ratio(theirs: Sample, ours: Sample) -> float:
    """Of paired rounds; of the shortest runs where somebody else had the core most of the time."""
    if max(theirs.contended, ours.contended) > CONTENDED:
        return theirs.best / ours.best
    return paired(theirs.rounds, ours.rounds)


def paired(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Median of the ratios of runs taken next to each other."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=False))


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(statistics.fmean(logs)) if logs else None
