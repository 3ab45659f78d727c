"""The process of one engine: reads requests, one JSON object a line, and answers each with one line.

Between requests it blocks on its pipe, and the harness stops it besides: no idle engine may take a core.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Array, Case, problem
from benchmarks.engine import ENGINES, Engine, Prepared, UnsupportedError
from benchmarks.evict import Evictor

_NOTHING: Callable[[], None] = lambda: None  # noqa: E731


class Worker:
    """State between requests: the engine and the case it holds."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.prepared: Prepared | None = None
        self.repeats = 1
        self.evictor: Evictor | None = None

    def about(self) -> dict[str, Any]:
        """What this engine is, or why it is none."""
        try:
            version = self.engine.version()
        except UnsupportedError as reason:
            return {"unsupported": str(reason)}
        return {"version": version, "allocator": _allocator()}

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Get a case ready and call it once; how long both took."""
        self.drop()
        start = time.perf_counter()
        try:
            self.repeats = problem(Case(**case)).repeats
            self.prepared = self.engine.prepare(Case(**case))
        except UnsupportedError as reason:
            return {"unsupported": str(reason)}
        ready = time.perf_counter()
        self.prepared.call()
        return {"prepare": ready - start, "first": time.perf_counter() - ready}

    def result(self, path: str) -> dict[str, Any]:
        """Write the result of the last call, or its first piece where all must be equal; bfloat16 as its bits.

        Raises RuntimeError if a piece differs.
        """
        found = np.ascontiguousarray(self._ready.result())
        found = _first_piece(found, self.repeats)
        np.save(path, found.view(np.uint16) if found.dtype.itemsize == 2 else found)
        return {}

    def time(self, warm: int, runs: int, cold: int) -> dict[str, Any]:
        """Seconds of single calls, and whether each had the core to itself. ``cold``: bytes to evict before."""
        call, between = self._ready.call, self._between(cold)
        for _ in range(warm):
            call()
        seconds, alone = [], []
        for _ in range(runs):
            between()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            start = time.perf_counter_ns()
            call()
            seconds.append((time.perf_counter_ns() - start) * 1e-9)
            alone.append(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == before)
        return {"seconds": seconds, "alone": alone}

    def memory(self) -> dict[str, Any]:
        """Bytes that a call holds at once beyond its arguments; None where the engine cannot tell."""
        peak = self._ready.peak
        return {"bytes": peak() if peak is not None else None}

    def peak(self, dtype: str) -> dict[str, Any]:
        """Operations a second that this process' CPUs reach together in a loop of multiply-adds."""
        from benchmarks import peak

        return {"operations": peak.operations(dtype, self.engine.threads)}

    def drop(self) -> dict[str, Any]:
        """Free the case."""
        self.prepared = None
        gc.collect()
        return {}

    @property
    def _ready(self) -> Prepared:
        if self.prepared is None:
            raise RuntimeError("no case is prepared")
        return self.prepared

    def _between(self, cold: int) -> Callable[[], None]:
        """What happens before a call and is not timed: weights change, caches are emptied, inputs arrive."""
        ready = self._ready
        if not cold and not ready.weights:
            return _NOTHING
        if cold and self.evictor is None:
            self.evictor = Evictor(cold, sorted(os.sched_getaffinity(0)))
        evict = self.evictor if cold and self.evictor is not None else _NOTHING
        inputs = [a.view(f"u{a.itemsize}") for a in ready.inputs] if cold else []
        weights = [a.view(f"u{a.itemsize}") for a in ready.weights]

        def between() -> None:
            for array in weights:
                array ^= array.dtype.type(1 << 8 * array.itemsize - 1)
            evict()
            for array in inputs:
                array.max()

        return between


def _first_piece(found: Array, repeats: int) -> Array:
    pieces = found.reshape(repeats, found.shape[0] // repeats, *found.shape[1:])
    first: Array = pieces[0]
    expected = first.tobytes()
    for i, piece in enumerate(pieces):
        if piece.tobytes() != expected:
            raise RuntimeError(f"piece {i} of {repeats} differs from the first on the same data")
    return first


def _allocator() -> str:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return "jemalloc" if "jemalloc" in maps.read() else "glibc malloc"


def main() -> int:
    """Serve until the pipe closes. Answers travel on a copy of stdout: libraries print on the original."""
    name, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    worker = Worker(ENGINES[name].make(threads))
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        action = getattr(worker, request.pop("do"))
        try:
            answer = action(**request)
        except Exception as problem:  # an engine may fail in any way; the others go on
            answer = {"error": f"{type(problem).__name__}: {str(problem).strip()[:400]}"}
        answers.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
