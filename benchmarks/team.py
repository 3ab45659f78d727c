"""Threads pinned to CPUs that do the same work at the same time; between calls they sleep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

Work = Callable[[int], object]


class Team:
    """One thread per CPU, for the life of the process."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self.size = len(cpus)
        self._begin = threading.Barrier(self.size + 1)
        self._end = threading.Barrier(self.size + 1)
        self._spans = [(0.0, 0.0)] * self.size
        self._work: Work = lambda index: None
        for index, cpu in enumerate(cpus):
            threading.Thread(target=self._serve, args=(index, cpu), daemon=True).start()

    def __call__(self, work: Work) -> float:
        """Run ``work(index)`` on every thread; seconds from the first one's start to the last one's end."""
        self._work = work
        self._begin.wait()
        self._end.wait()
        return max(end for _, end in self._spans) - min(start for start, _ in self._spans)

    def _serve(self, index: int, cpu: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        while True:
            self._begin.wait()
            start = time.perf_counter()
            self._work(index)
            self._spans[index] = start, time.perf_counter()
            self._end.wait()
