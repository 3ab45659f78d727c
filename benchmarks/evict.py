"""Emptying the near caches between two calls."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Array
from benchmarks.team import Team


class Evictor:
    """Reads ``size`` bytes on every given CPU, so that what a call needs comes from beyond its near caches."""

    def __init__(self, size: int, cpus: list[int]) -> None:
        self._team = Team(cpus)
        self._memory: list[Array] = [np.ones(size // 8, np.int64) for _ in cpus]

    def __call__(self) -> None:
        """Evict, and wait for it."""
        self._team(lambda index: self._memory[index].sum())
