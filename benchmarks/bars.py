"""Bars: ``bar NAME VALUE TARGET ok|short|n/a``, VALUE the worst case relative to its target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.case import Case
from benchmarks.problems.elementwise import IMAGES
from benchmarks.results import Results, geometric_mean

PEERS = ("onednn", "onnxruntime", "openvino")
USER_CALL = "torch-compile"
DIRECT = ("opc-tuned", "opc")  # the first that was measured counts
LICENSED = ("opc-fast", *DIRECT)
_NO_AMX = "this computer has no AMX: no verdict"
_FEW_SLOW, _SLOW, _TOO_SLOW = 5, 0.95, 0.85


@dataclass(frozen=True)
class Situation:
    """One case of a bar: a batch on some threads, over all its shapes."""

    label: str
    value: float
    target: float

    @property
    def relative(self) -> float:
        """1 or more is good."""
        return self.value / self.target


@dataclass(frozen=True)
class Bar:
    """A bar with its cases; ``reason`` is why there is no verdict, or why it is short although the value is not."""

    name: str
    target: float
    situations: tuple[Situation, ...] = ()
    reason: str = ""
    forced: str = ""

    @property
    def worst(self) -> Situation | None:
        """The case furthest below its target."""
        return min(self.situations, key=lambda s: s.relative, default=None)

    @property
    def verdict(self) -> str:
        """``ok``, ``short`` or ``n/a``."""
        if self.forced or self.worst is None:
            return self.forced or "n/a"
        return "ok" if self.worst.relative >= 1 else "short"

    def lines(self) -> list[str]:
        """The cases, then the bar."""
        found = [f"  {s.label}: {s.value:.3f} (target {s.target:g})" for s in self.situations]
        if self.reason:
            found.append(f"  {self.name}: {self.reason}")
        worst = self.worst
        value, target = ("n/a", self.target) if worst is None else (f"{worst.value:.3f}", worst.target)
        return [*found, f"bar {self.name} {value} {target:g} {self.verdict}"]


@dataclass(frozen=True)
class Least:
    """A bar whose value must not be larger than its target, in the lines of ``Bar``."""

    name: str
    target: float
    cases: tuple[tuple[str, float], ...]
    value: float | None

    def lines(self) -> list[str]:
        """The cases, then the bar."""
        found = [f"  {label}: {value:.3f}" for label, value in self.cases]
        if self.value is None:
            return [*found, f"bar {self.name} n/a {self.target:g} n/a"]
        verdict = "ok" if self.value <= self.target else "short"
        return [*found, f"bar {self.name} {self.value:.3f} {self.target:g} {verdict}"]


def conv_bars(results: Results) -> list[Bar]:
    """Every bar of the convolutions."""
    amx = bool(results.settings.get("amx"))
    unfit = "" if amx else _NO_AMX
    licence = "" if "opc-fast" in results.engines else "measured without the licence numerics=fast"
    bars = [
        _over_peers(results, "bf16_vs_best_peer", "bf16", DIRECT, {1: 1.6, 8: 1.45}, unfit),
        _over_peers(results, "f32_vs_best_peer", "f32", LICENSED, {1: 1.15, 8: 1.15}, licence),
        _over_peers(results, "f32_direct", "f32", DIRECT, {1: 1.0, 8: 1.0}),
        _worst_shape(results, amx),
        _against(results, "order_gain", "bf16", "opc", "opc-source-order", {1: 1.15, 8: 1.15}, unfit),
        _against(results, "bf16_vs_user_call", "bf16", DIRECT, USER_CALL, {1: 2.0, 8: 1.5}, unfit),
        _against(results, "f32_vs_user_call", "f32", DIRECT, USER_CALL, {1: 1.1, 8: 1.1}),
    ]
    return bars


def chosen(results: Results, case: Case, engines: Sequence[str]) -> str | None:
    """The first of the engines that was measured on this case."""
    return next((e for e in engines if results.of(case, e)), None)


def over_best_peer(
    results: Results, case: Case, engines: Sequence[str], peers: Sequence[str] = PEERS
) -> float | None:
    """Our speed over that of the case's fastest peer."""
    ours, theirs = chosen(results, case, engines), results.fastest(case, peers)
    return results.speedup(case, ours, theirs) if ours and theirs else None


def _over_peers(
    results: Results,
    name: str,
    dtype: str,
    engines: Sequence[str],
    targets: dict[int, float],
    reason: str = "",
) -> Bar:
    found = situations(results, dtype, targets, lambda case: over_best_peer(results, case, engines))
    return Bar(name, targets[1], found, reason, "n/a" if "no verdict" in reason else "")


def _against(
    results: Results,
    name: str,
    dtype: str,
    engines: Sequence[str] | str,
    other: str,
    targets: dict[int, float],
    reason: str = "",
) -> Bar:
    wanted = (engines,) if isinstance(engines, str) else engines

    def ratio(case: Case) -> float | None:
        ours = chosen(results, case, wanted)
        return results.speedup(case, ours, other) if ours else None

    found = situations(results, dtype, targets, ratio)
    return Bar(name, targets[1], found, reason, "n/a" if "no verdict" in reason else "")


def situations(
    results: Results, dtype: str, targets: dict[int, float], ratio: Callable[[Case], float | None]
) -> tuple[Situation, ...]:
    """The geometric mean of a ratio over the shapes of every batch and number of threads."""
    groups: dict[tuple[int, int], list[float]] = {}
    for case in results.cases():
        if case.dtype == dtype and (value := ratio(case)) is not None:
            groups.setdefault((case.batch, case.threads), []).append(value)
    return tuple(
        Situation(f"{dtype} batch {batch} threads {threads}, {len(values)} shapes", mean, targets[batch])
        for (batch, threads), values in sorted(groups.items())
        if (mean := geometric_mean(values)) is not None
    )


def _worst_shape(results: Results, amx: bool) -> Bar:
    """The slowest cells relative to their best peers; a few may be a little slower, none much."""
    wanted = ("f32", "bf16") if amx else ("f32",)
    cells = {
        case: ratio
        for case in results.cases()
        if case.dtype in wanted and (ratio := over_best_peer(results, case, DIRECT)) is not None
    }
    slow = sorted((ratio, case) for case, ratio in cells.items() if ratio < _SLOW)
    found = tuple(Situation(str(case), ratio, _TOO_SLOW) for ratio, case in slow)
    if cells and not found:
        case = min(cells, key=lambda c: cells[c])
        found = (Situation(str(case), cells[case], _TOO_SLOW),)
    reason = f"{len(slow)} of {len(cells)} cells below {_SLOW} (at most {_FEW_SLOW})"
    return Bar("worst_shape", _TOO_SLOW, found, reason, "short" if len(slow) > _FEW_SLOW else "")


def matmul_bars(results: Results) -> list[Bar]:
    """Every bar of the matrix products; all shapes count."""
    unfit = "" if results.settings.get("amx") else _NO_AMX
    return [
        _against(results, "matmul_f32", "f32", DIRECT, "torch", {1: 0.97}),
        _against(results, "matmul_bf16", "bf16", DIRECT, "torch", {1: 1.0}, unfit),
    ]


def conv_grad_bars(results: Results) -> list[Bar]:
    """Data and weight gradients apart; all shapes count."""
    unfit = "" if results.settings.get("amx") else _NO_AMX
    found = []
    for of in ("data", "weights"):
        mine = replace(results, samples=[s for s in results.samples if s.case.name.endswith(of)])
        found += [
            _against(mine, f"{of}_f32", "f32", DIRECT, "torch-grad", {1: 1.2, 8: 1.2, 32: 1.2}),
            _against(mine, f"{of}_bf16", "bf16", DIRECT, "torch-grad", {1: 1.2, 8: 1.2, 32: 1.2}, unfit),
        ]
    return found


def elementwise_bars(results: Results) -> list[Bar]:
    """Bandwidth as a share of the triad's, kernel by kernel; what arithmetic or reductions bound is only shown."""
    found = []
    for case in results.cases():
        value = over_best_peer(results, case, DIRECT, ("triad",))
        if value is not None and case.name in IMAGES:
            found.append(Situation(f"{case.name} {case.dtype} threads {case.threads}", value, 0.9))
    return [Bar("bandwidth", 0.9, tuple(found))]


def bar_lines(bars: Iterable[Bar | Least]) -> list[str]:
    """All lines of all bars."""
    return [line for bar in bars for line in bar.lines()]
