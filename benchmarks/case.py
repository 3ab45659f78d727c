"""What is measured: a problem of some family, in one dtype, at one batch and one number of threads."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
Sizes = dict[str, int]


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One cell of the tables. ``name`` says which problem of its family, see ``benchmarks/problems``."""

    family: str
    name: str
    dtype: str
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} batch {self.batch} threads {self.threads}"

    @property
    def data(self) -> Case:
        """The same numbers on one thread: what all thread counts must agree on."""
        return Case(self.family, self.name, self.dtype, self.batch, 1)


class Problem(Protocol):
    """What every engine computes for a case: the kernel of opc that defines it, and its data."""

    @property
    def source(self) -> str:
        """The kernel's text."""

    @property
    def kernel(self) -> str | None:
        """Which kernel of the text; None: the only one."""

    @property
    def sizes(self) -> Sizes:
        """Sizes and attributes of the kernel."""

    @property
    def layout(self) -> str | None:
        """Memory order of images."""

    @property
    def flops(self) -> int:
        """Operations of one call; 0 where only traffic counts."""

    @property
    def moved(self) -> int:
        """Bytes of arguments and results, each once."""

    @property
    def repeats(self) -> int:
        """How many equal pieces the data, and so the result, is made of along its first axis."""

    def arrays(self) -> Arrays:
        """Seeded arguments by name, axes in the kernel's order, memory in the layout's."""

    def parts(self) -> Iterator[tuple[Sizes, Arrays]]:
        """Smaller problems whose results, one after the other, are the result, or its first piece."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of a dtype's name."""
    from opc.dtypes import DType

    return DType(name).numpy


def problem(case: Case) -> Problem:
    """The problem behind a case."""
    made: Problem = importlib.import_module(f"benchmarks.problems.{case.family}").problem(case)
    return made
