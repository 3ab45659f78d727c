"""Emptying the near caches between two calls."""

from __future__ import annotations

import os
import threading

import numpy as np


class Evictor:
    """Reads ``size`` bytes on every given CPU, so that what a call needs comes from beyond its near caches."""

    def __init__(self, size: int, cpus: list[int]) -> None:
        self._start = threading.Barrier(len(cpus) + 1)
        self._end = threading.Barrier(len(cpus) + 1)
        for cpu in cpus:
            threading.Thread(target=self._serve, args=(cpu, size), daemon=True).start()

    def __call__(self) -> None:
        """Evict, and wait for it."""
        self._start.wait()
        self._end.wait()

    def _serve(self, cpu: int, size: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        memory = np.ones(size // 8, np.int64)
        while True:
            self._start.wait()
            memory.sum()
            self._end.wait()
