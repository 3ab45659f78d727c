"""Kernels that memory bounds, on arrays far larger than any cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import kernels_dsl
from benchmarks.case import Array, Arrays, Case, Sizes, numpy_dtype

IMAGES = ("relu", "add", "batch_norm", "max_pool2d", "avg_pool2d")
ROWS = ("gelu", "softmax", "layer_norm")
NAMES = (*IMAGES, *ROWS)
QUICK = ("relu", "add", "batch_norm", "max_pool2d", "layer_norm")
_IMAGE = (256, 64, 64)  # channels, height, width
_COLUMNS, _PIECE_ROWS = 1024, 1024
_SEED = 52
_LINE = 64


@dataclass(frozen=True)
class ElementwiseProblem:
    """A shipped kernel; the case's batch is the size of its largest array in MiB.

    The data repeats one piece, an image or a block of rows, because random numbers for gigabytes take long:
    the first piece of a result is checked against the oracle, the others must equal it.
    """

    case: Case

    @property
    def source(self) -> str:
        """The kernel's text."""
        return kernels_dsl.source(self.case.name)

    @property
    def _item(self) -> int:
        return numpy_dtype(self.case.dtype).itemsize

    @property
    def _piece(self) -> tuple[int, ...]:
        """Shape of a piece, in memory order."""
        c, h, w = _IMAGE
        return (1, h, w, c) if self.case.name in IMAGES else (_PIECE_ROWS, _COLUMNS)

    @property
    def repeats(self) -> int:
        """As many pieces as fill the size asked for."""
        return max(1, (self.case.batch << 20) // (math.prod(self._piece) * self._item))

    @property
    def sizes(self) -> Sizes:
        """Sizes of the kernel."""
        return self._sizes(self.repeats)

    def _sizes(self, pieces: int) -> Sizes:
        c, h, w = _IMAGE
        if self.case.name in IMAGES:
            return {"N": pieces, "C": c, "H": h, "W": w}
        return {"M": pieces * _PIECE_ROWS, "N": _COLUMNS}

    @property
    def kernel(self) -> str | None:
        """The text has no other."""
        return None

    @property
    def layout(self) -> str | None:
        """Channels last."""
        return "nhwc" if self.case.name in IMAGES else None

    @property
    def flops(self) -> int:
        """Traffic counts."""
        return 0

    @property
    def moved(self) -> int:
        """Bytes read and written; parameters are too small to count."""
        whole = self.repeats * math.prod(self._piece) * self._item
        reads = 2 if self.case.name == "add" else 1
        writes = 0.25 if self.case.name.endswith("pool2d") else 1.0
        return int(whole * (reads + writes))

    def arrays(self) -> Arrays:
        """Every argument in full."""
        return {name: self._whole(name, piece, self.repeats) for name, piece in self._values().items()}

    def parts(self) -> Iterator[tuple[Sizes, Arrays]]:
        """The first piece."""
        yield self._sizes(1), {name: self._whole(name, a, 1) for name, a in self._values().items()}

    def _values(self) -> Arrays:
        """One piece of each input, and the parameters."""
        random = np.random.default_rng(_SEED)
        names = ("a", "b") if self.case.name == "add" else ("x",)
        kind = numpy_dtype(self.case.dtype)
        found = {n: random.standard_normal(self._piece, np.float32).astype(kind) for n in names}
        width = self._piece[-1]
        params = {"batch_norm": ("gamma", "beta", "mean", "var"), "layer_norm": ("gamma", "beta")}
        for name in params.get(self.case.name, ()):
            found[name] = random.uniform(0.5, 1.5, width).astype(np.float32)
        return found

    def _whole(self, name: str, piece: Array, pieces: int) -> Array:
        if piece.ndim == 1:
            return piece
        whole = _on_a_line((pieces * piece.shape[0], *piece.shape[1:]), piece.dtype)
        whole.reshape(pieces, *piece.shape)[...] = piece
        return whole.transpose(0, 3, 1, 2) if self.layout else whole


def _on_a_line(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that begins at a cache line, as the triad's do and ``kernel.empty`` gives them."""
    size = math.prod(shape) * dtype.itemsize
    raw: Array = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def problem(case: Case) -> ElementwiseProblem:
    """The problem of a case of family "elementwise"."""
    return ElementwiseProblem(case)
