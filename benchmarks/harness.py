"""Runs cases on engines in turn: each engine in its own process, every result checked before it is timed."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import jemalloc
from benchmarks.case import Array, Case
from benchmarks.check import Checker, Verdict
from benchmarks.engine import ENGINES, Entry
from benchmarks.process import ROOT, EngineError, Process
from benchmarks.results import Results, Sample

Say = Callable[[str], None]
Run = tuple[float, bool]  # seconds, and whether it had its core to itself


@dataclass(frozen=True)
class Plan:
    """How to measure: ``rounds`` of about ``seconds`` each per engine and case, at least ``runs`` calls in all."""

    rounds: int = 7
    seconds: float = 0.004
    runs: int = 21
    warm: int = 2
    slowest: float = 1.0  # a peer whose call takes longer is not timed, opc only once a round
    cold: int = 0  # bytes to evict before every call
    passive: bool = False  # waiting threads sleep at once
    preload: str | None = None  # jemalloc

    def calls(self, seconds: float) -> int:
        """Timed calls in a round of an engine that takes so long."""
        if seconds > self.slowest:
            return 1
        return max(-(-self.runs // self.rounds), min(50, int(self.seconds / seconds)))


class Session:
    """One set of fresh processes with one number of threads."""

    def __init__(self, results: Results, checker: Checker, plan: Plan, say: Say, left_out: set[str]) -> None:
        self.results, self.checker, self.plan, self.say = results, checker, plan, say
        self.running: dict[str, Process] = {}
        self.left_out = left_out  # engine and dtype; shared by all sets of processes
        self._folder = tempfile.TemporaryDirectory(prefix="opc-bench-")

    def start(self, engines: Sequence[Entry], threads: int) -> None:
        """Start engines together; those that cannot start are noted as missing."""
        cpus = set(sorted(os.sched_getaffinity(0))[-threads:])
        folder = Path(self._folder.name)
        for entry in engines:
            if (reason := entry.missing()) is not None:
                self.results.missing[entry.name] = reason
                continue
            log = folder / f"{entry.name}.log"
            self.running[entry.name] = Process(entry, cpus, environment(entry, threads, self.plan), log)
        for name, process in list(self.running.items()):
            try:
                about = process.about()
            except EngineError as problem:
                about = {"unsupported": f"does not start: {problem}"}
            if "unsupported" in about:
                self._lose(name, about["unsupported"])
            else:
                self.results.engines[name] = f"{about['version']}, {about['allocator']}"

    def close(self) -> None:
        """End all processes."""
        for process in self.running.values():
            process.close()
        self.running.clear()
        self._folder.cleanup()

    def peaks(self, dtypes: Sequence[str], threads: int) -> None:
        """Measure the machine's own limits, in whichever process is there: none computes meanwhile."""
        process = next(iter(self.running.values()))
        for dtype in dtypes:
            found = process.ask("peak", dtype=dtype)["operations"]
            key = f"{dtype}/{threads}"
            self.results.peaks[key] = max(found, self.results.peaks.get(key, 0.0))

    def measure(self, case: Case, number: int) -> None:
        """Prepare, check and time one case on every engine that takes it."""
        calls: dict[str, float] = {}
        for name in list(self.running):
            first = self._ready(name, case)
            if first is not None:
                calls[name] = first
        for name, rounds in self._rounds(case, calls).items():
            self.results.samples.append(_sample(number, case, name, rounds, self._memory(name, case)))

    def _memory(self, name: str, case: Case) -> int | None:
        """Bytes that a call holds at its peak, where the engine can tell."""
        try:
            found: int | None = self.running[name].ask("memory")["bytes"]
        except EngineError as problem:
            self._fail(name, case, str(problem))
            return None
        return found

    def _ready(self, name: str, case: Case) -> float | None:
        """Seconds of a warm call, or None if the engine leaves this case out."""
        process = self.running[name]
        if f"{name} {case.dtype}" in self.left_out:
            return None
        try:
            answer = process.ask("prepare", limit=300, case=asdict(case))
            if "unsupported" in answer:
                self._leave_out(name, case, answer["unsupported"])
                return None
            verdict = self._check(name, case, process) if ENGINES[name].computes else Verdict(None)
            if verdict.problem is not None:
                self._fail(name, case, verdict.problem)
                return None
            patient = ENGINES[name].ours
            if answer["first"] > 10 * self.plan.slowest and not patient:
                self._leave_out(name, case, f"{answer['first']:.2g} s a call")
                return None
            seconds = float(min(process.ask("time", warm=0, runs=2, cold=0)["seconds"]))
            if seconds > self.plan.slowest and not patient:
                self._leave_out(name, case, f"{seconds:.2g} s a call")
                return None
            return seconds
        except EngineError as problem:
            self._fail(name, case, str(problem))
            return None

    def _check(self, name: str, case: Case, process: Process) -> Verdict:
        path = Path(self._folder.name) / "result.npy"
        process.ask("result", path=str(path))
        result: Array = np.load(path)
        if not ENGINES[name].ours:
            return self.checker.peer(case, result)
        verdict = self.checker.own(ENGINES[name].numerics, case, result)
        self.results.checked[name] = max(verdict.ratio, self.results.checked.get(name, 0.0))
        return verdict

    def _rounds(self, case: Case, calls: dict[str, float]) -> dict[str, list[list[Run]]]:
        """Timed runs by engine; the order is shuffled every round, so that no engine always follows another."""
        plan, order = self.plan, list(calls)
        shuffle = random.Random(str(case)).shuffle
        runs = {name: plan.calls(seconds) for name, seconds in calls.items()}
        found: dict[str, list[list[Run]]] = {n: [] for n in order}
        for _ in range(plan.rounds):
            shuffle(order)
            for name in list(order):
                try:
                    answer = self.running[name].ask("time", warm=plan.warm, runs=runs[name], cold=plan.cold)
                except EngineError as problem:
                    self._fail(name, case, str(problem))
                    order.remove(name)
                    found.pop(name)
                    continue
                found[name].append(list(zip(answer["seconds"], answer["alone"], strict=True)))
        return found

    def _leave_out(self, name: str, case: Case, reason: str) -> None:
        """Note that the engine is no match in this dtype, so that no more time is spent on it."""
        self.left_out.add(f"{name} {case.dtype}")
        self.results.missing[f"{name} {case.dtype}"] = f"{case.name}: {reason}"

    def _fail(self, name: str, case: Case, problem: str) -> None:
        """A failure of ours fails the run; a peer's is noted, once per kind of its message."""
        text = f"{name}: {case}: {problem}"
        if ENGINES[name].ours:
            self.results.failures.append(text)
        elif self.results.missing.setdefault(f"{name} {case.dtype}", problem) == problem:
            return
        self.say(text)

    def _lose(self, name: str, reason: str) -> None:
        self.running.pop(name).close()
        self.results.missing[name] = reason
        self.say(f"{name}: {reason}")


def environment(entry: Entry, threads: int, plan: Plan) -> dict[str, str]:
    """The variables of an engine's process. Idle engines are stopped, so theirs may wait as they like."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "OPC_NUM_THREADS": str(threads)}
    if plan.passive:
        kept |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "OPC_BENCH_PASSIVE": "1"}
    if entry.jemalloc and plan.preload:
        kept |= {"LD_PRELOAD": plan.preload, "MALLOC_CONF": jemalloc.SETTINGS}
    return kept


def _sample(number: int, case: Case, name: str, rounds: list[list[Run]], memory: int | None) -> Sample:
    runs = [run for each in rounds for run in each]
    return Sample(
        number,
        case,
        name,
        tuple(map(typical, rounds)),
        min(seconds for seconds, _ in runs),
        len(runs),
        sum(not alone for _, alone in runs) / len(runs),
        memory,
    )


def typical(runs: Sequence[Run]) -> float:
    """Median of the runs that had their core to themselves; the least disturbed one if none had."""
    quiet = [seconds for seconds, alone in runs if alone]
    return statistics.median(quiet) if quiet else min(seconds for seconds, _ in runs)
