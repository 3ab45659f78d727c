"""Matrix products: square and rectangular, one or a batch of them, either operand transposed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.case import Arrays, Case, Sizes, numpy_dtype

# MxNxK, then which operands lie transposed in memory: "t" as in BLAS.
SQUARE = ("512x512x512", "1024x1024x1024", "2048x2048x2048")
OTHER = (
    "2048x256x1024",
    "64x2048x2048",
    "1000x1000x1000",
    "1024x1024x1024.nt",
    "1024x1024x1024.tn",
    "8*256x256x512",
    "8*256x256x512.nt",
)
NAMES = (*SQUARE, *OTHER)
QUICK = ("512x512x512", "1024x1024x1024", "2048x256x1024", "1024x1024x1024.nt", "8*256x256x512")
_SEED = 51


@dataclass(frozen=True)
class MatmulProblem:
    """``[count*]MxNxK[.tt]``; the data of both operands arrives with the call, so packing is timed."""

    case: Case

    @property
    def _parts(self) -> tuple[int, int, int, int, str]:
        shape, _, transposed = self.case.name.partition(".")
        count, star, shape = shape.rpartition("*")
        m, n, k = map(int, shape.split("x"))
        return int(count) if star else 1, m, n, k, transposed or "nn"

    @property
    def transposed(self) -> tuple[bool, bool]:
        """Whether a and b lie transposed in memory."""
        mark = self._parts[-1]
        return mark[0] == "t", mark[1] == "t"

    @property
    def source(self) -> str:
        """The kernel's text."""
        count = self._parts[0]
        b, of = ("b, ", "B, ") if count > 1 else ("", "")
        first, second = self.transposed
        a_shape, a_index = ("K, M", "k, m") if first else ("M, K", "m, k")
        b_shape, b_index = ("N, K", "n, k") if second else ("K, N", "k, n")
        example = "example B = 2, M = 8, N = 8, K = 8" if of else "example M = 8, N = 8, K = 8"
        return f"""kernel matmul(a: T[{of}{a_shape}], b: T[{of}{b_shape}]) -> (y: T[{of}M, N]) {{
  {example}
  y[{b}m, n] = sum[k](a[{b}{a_index}] * b[{b}{b_index}])
}}
"""

    @property
    def sizes(self) -> Sizes:
        """Sizes of the kernel."""
        count, m, n, k, _ = self._parts
        return {"M": m, "N": n, "K": k} | ({"B": count} if count > 1 else {})

    @property
    def kernel(self) -> str | None:
        """The text has no other."""
        return None

    @property
    def layout(self) -> str | None:
        """No images."""
        return None

    @property
    def flops(self) -> int:
        """A multiply-add counts as two."""
        count, m, n, k, _ = self._parts
        return 2 * count * m * n * k

    @property
    def moved(self) -> int:
        """Bytes of both operands and the result."""
        count, m, n, k, _ = self._parts
        return count * (m * k + k * n + m * n) * numpy_dtype(self.case.dtype).itemsize

    @property
    def repeats(self) -> int:
        """Nothing repeats."""
        return 1

    def arrays(self) -> Arrays:
        """Normal data."""
        count, m, n, k, _ = self._parts
        first, second = self.transposed
        random, kind = np.random.default_rng(_SEED), numpy_dtype(self.case.dtype)
        lead = (count,) if count > 1 else ()
        shapes = {"a": (k, m) if first else (m, k), "b": (n, k) if second else (k, n)}
        return {
            name: random.standard_normal((*lead, *shape), np.float32).astype(kind)
            for name, shape in shapes.items()
        }

    def parts(self) -> Iterator[tuple[Sizes, Arrays]]:
        """The whole."""
        yield self.sizes, self.arrays()


def problem(case: Case) -> MatmulProblem:
    """The problem of a case of family "matmul"."""
    return MatmulProblem(case)
