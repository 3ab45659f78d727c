"""The bars of training: speed and memory beside torch, cycles beside less fusion and the order as written."""

from __future__ import annotations

from benchmarks.bars import Bar, Least, Situation, chosen, over_best_peer, situations
from benchmarks.case import Case
from benchmarks.results import Results, geometric_mean

TORCH = ("torch-eager-train", "torch-compile-train")
OURS = ("opc-tuned-train", "opc-train")  # the first that was measured counts
_WORST = 0.97
_NO_AMX = "this computer has no AMX: no verdict"


def training_bars(results: Results) -> list[Bar | Least]:
    """Every bar of a training block."""
    amx = bool(results.settings.get("amx"))
    return [
        _over_torch(results, "bf16_vs_best_peer", "bf16", 2.0, "" if amx else _NO_AMX),
        _over_torch(results, "f32_vs_best_peer", "f32", 1.3),
        _worst_shape(results, ("f32", "bf16") if amx else ("f32",)),
        _memory(results),
        _cycles(results, "npu_gain", "a", 3.0),
        _cycles(results, "npu_fusion_gain", "a2", 1.4),
        _cycles(results, "npu_order_gain", "c", 1.3, licensed=True),
    ]


def _ratio(results: Results, case: Case) -> float | None:
    return over_best_peer(results, case, OURS, TORCH)


def _over_torch(results: Results, name: str, dtype: str, target: float, reason: str = "") -> Bar:
    targets = {case.batch: target for case in results.cases()}
    found = situations(results, dtype, targets, lambda case: _ratio(results, case))
    return Bar(name, target, found, reason, "n/a" if reason else "")


def _worst_shape(results: Results, dtypes: tuple[str, ...]) -> Bar:
    """Of every batch and number of threads the slowest shape."""
    slowest: dict[tuple[str, int, int], Situation] = {}
    for case in results.cases():
        key = case.dtype, case.batch, case.threads
        if case.dtype not in dtypes or (value := _ratio(results, case)) is None:
            continue
        if key not in slowest or value < slowest[key].value:
            slowest[key] = Situation(str(case), value, _WORST)
    return Bar("worst_shape", _WORST, tuple(slowest.values()))


def _memory(results: Results) -> Least:
    """Our bytes over those of the thriftier torch, shape by shape."""
    largest: dict[tuple[str, int, int], tuple[str, float]] = {}
    for case in results.cases():
        key = case.dtype, case.batch, case.threads
        value = memory_ratio(results, case)
        if value is not None and value > largest.get(key, ("", 0.0))[1]:
            largest[key] = str(case), value
    cases = tuple(largest.values())
    return Least("memory", 1.0, cases, max((value for _, value in cases), default=None))


def memory_ratio(results: Results, case: Case) -> float | None:
    """Our bytes over those of the thriftier torch, where both are known."""
    ours = chosen(results, case, OURS)
    theirs = [m for e in TORCH if (m := results.memory(case, e)) is not None]
    mine = results.memory(case, ours) if ours else None
    return mine / min(theirs) if mine is not None and theirs else None


def _cycles(results: Results, name: str, mode: str, target: float, *, licensed: bool = False) -> Bar:
    """The geometric mean over the blocks of a mode's cycles over those of mode d with the licence, which the mode has
    too if it is one of the same kernel. Without it, and with it on both sides, the means stand beside.
    """
    other = f"{mode}+" if licensed else mode
    gains = _gains(results, other, "d+")
    mean = geometric_mean(gains.values())
    shown = " ".join(f"{block} {gain:.2f}" for block, gain in gains.items())
    beside = [(mode, "d", "without the licence")]
    beside += [] if licensed else [(f"{mode}+", "d+", "with it on both sides")]
    found = () if mean is None else (Situation(f"geometric mean of {len(gains)}", mean, target),)
    means = [(text, geometric_mean(_gains(results, *pair).values())) for *pair, text in beside]
    rest = "".join(f"; {text} {value:.3f}" for text, value in means if value is not None)
    return Bar(name, target, found, f"({other})/(d+): {shown}{rest}" if gains else "")


def _gains(results: Results, mode: str, best: str) -> dict[str, float]:
    """Block by block one mode's cycles over another's."""
    return {n: c[mode] / c[best] for n, c in results.simulated.items() if {mode, best} <= c.keys()}
