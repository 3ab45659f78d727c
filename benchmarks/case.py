"""What is measured: a problem of some family, in one dtype, at one batch and one number of threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One cell of the tables. ``name`` says which problem of its family, see the family's module."""

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

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Problem(Protocol):
    """What every engine computes for a case: the kernel of opc that defines it, and its data."""

    @property
    def case(self) -> Case:
        """Which case this is."""

    @property
    def kernel(self) -> str:
        """Name in ``kernels_dsl``."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes and attributes of the kernel."""

    @property
    def layout(self) -> str | None:
        """Memory order of images."""

    @property
    def flops(self) -> int:
        """Operations of one call."""

    @property
    def moved(self) -> int:
        """Bytes of arguments and results, each once."""

    def arrays(self) -> dict[str, Array]:
        """Seeded arguments by name, axes in the kernel's order, memory in the layout's."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of a dtype's name."""
    from opc.dtypes import DType

    return DType(name).numpy


def problem(case: Case) -> Problem:
    """The problem behind a case."""
    from benchmarks import conv_problem

    families: dict[str, type] = {"conv": conv_problem.ConvProblem}
    found: Problem = families[case.family](case)
    return found
