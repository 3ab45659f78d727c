"""Gradients of the convolutions of ResNet-50, each by itself: of the image ("data") and of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.case import Arrays, Case, Sizes, numpy_dtype
from benchmarks.problems.layer import LayerProblem
from benchmarks.problems.resnet50 import RESNET50

# The network never asks for the gradient of its own input.
NAMES = tuple(f"{n}-{of}" for n in RESNET50 for of in ("data", "weights") if (n, of) != ("c01", "data"))
QUICK = tuple(
    f"{n}-{of}"
    for n in ("c01", "c03", "c05", "c07", "c11", "c14", "c17", "c22", "c23")
    for of in ("data", "weights")
    if (n, of) != ("c01", "data")
)
_SEED = 51
SOURCE = """
kernel conv(x: T[N, C, H, W], w: T[K, C, R, S], stride: int, pad: int) -> (y: T[N, K, P, Q]) {
  let P = (H + 2*pad - R) // stride + 1
  let Q = (W + 2*pad - S) // stride + 1
  y[n, k, p, q] = sum[c, r, s]((x[n, c, p*stride + r - pad, q*stride + s - pad] else 0) * w[k, c, r, s])
}
kernel data = grad(conv, wrt=[x])
kernel weights = grad(conv, wrt=[w])
"""


@dataclass(frozen=True)
class ConvGradProblem(LayerProblem):
    """One gradient of one convolution. Weights change from step to step: none of it is packed ahead."""

    @property
    def of(self) -> str:
        """``data`` or ``weights``."""
        return self.case.name.split("-")[1]

    @property
    def source(self) -> str:
        """The convolution and its gradients."""
        return SOURCE

    @property
    def kernel(self) -> str | None:
        """The backward kernel of one of them."""
        return f"{self.of}.bwd"

    def arrays(self) -> Arrays:
        """Normal data, the result's gradient scaled so that both gradients have about the variance one."""
        c, kind = self.conv, numpy_dtype(self.case.dtype)
        random = np.random.default_rng(_SEED)
        terms = c.filters * c.size**2 if self.of == "data" else self.case.batch * c.out**2
        d_y = random.standard_normal((self.case.batch, c.out, c.out, c.filters), np.float32) * terms**-0.5
        found = {"d_y": d_y.astype(kind).transpose(0, 3, 1, 2)}
        if self.of == "data":
            shape = (c.filters, c.size, c.size, c.channels)
            return {
                "w": random.standard_normal(shape, np.float32).astype(kind).transpose(0, 3, 1, 2),
                **found,
            }
        shape = (self.case.batch, c.image, c.image, c.channels)
        return {"x": random.standard_normal(shape, np.float32).astype(kind).transpose(0, 3, 1, 2), **found}

    def parts(self) -> Iterator[tuple[Sizes, Arrays]]:
        """Images one by one, or some filters at a time: what the oracle holds stays small."""
        arrays, c = self.arrays(), self.conv
        if self.of == "data":
            for i in range(self.case.batch):
                yield {**self.sizes, "N": 1}, {**arrays, "d_y": arrays["d_y"][i : i + 1]}
            return
        step = max(1, c.filters // 8)
        for k in range(0, c.filters, step):
            yield {**self.sizes, "K": step}, {**arrays, "d_y": arrays["d_y"][:, k : k + step]}


def problem(case: Case) -> ConvGradProblem:
    """The problem of a case of family "conv_grad"."""
    return ConvGradProblem(case)
