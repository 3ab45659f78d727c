"""What the NPU is measured on: operators of their own, so that fusion can be switched off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kernels_dsl
from benchmarks.problems.resnet50 import RESNET50, Conv

if TYPE_CHECKING:
    from opc.dtypes import DType

BATCH = 32  # one image for each of the 32 cores

_CONV_BN_RELU = """
kernel conv_bn_relu_operators(x: T[N, C, H, W], param w: T[K, C, R, S],
                              param gamma: f32[K], param beta: f32[K], param mean: f32[K], param var: f32[K],
                              stride: int = 1, pad: int = 1) -> (y: T[N, K, P, Q]) {
  "Convolution, batch normalisation with fixed statistics and ReLU, as three operators."
  let P = (H + 2*pad - R) // stride + 1
  let Q = (W + 2*pad - S) // stride + 1
  a = conv2d(x, w, stride=stride, pad=pad)
  b = batch_norm(a, gamma, beta, mean, var)
  y = relu(b)
}
"""


@dataclass(frozen=True)
class NpuProblem:
    """A kernel on one convolution of ResNet-50. ``roles``: how many kinds of work its vector pipe has; with two it also
    normalises the input, and sums up the result instead of normalising it.
    """

    name: str
    source: str
    conv: Conv
    batch: int = BATCH
    roles: int = 1

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes and attributes of the kernel."""
        return self.conv.sizes(self.batch)

    def prologue(self, wide: DType, narrow: DType, licensed: bool) -> Iterator[tuple[str, int, DType]]:
        """What the vector unit does to an element of the input: function, tensor operands, widest type.

        Under the licence ``(x - m) * s + t`` is ``x * A + B``, which channels alone decide.
        """
        if self.roles > 1:
            yield "copy", 1, wide
            yield from (("mul", 2, wide), ("add", 2, wide)) if licensed else _affine(wide)
            yield "copy", 1, wide
            yield "max", 1, narrow

    def epilogue(
        self, wide: DType, narrow: DType, licensed: bool, drains: bool
    ) -> Iterator[tuple[str, int, DType]]:
        """What it does to an accumulator; under the licence the factor of A is in the weights, and where the machine
        ``drains`` all the rest, B is where the sum starts.

        What depends on parameters alone is computed beforehand. Rounding is monotone, so that ReLU may follow it.
        """
        if self.roles > 1:
            yield "reduce_moments", 1, wide
            yield "copy", 1, wide
            return
        if licensed and drains:
            return
        yield from (("add", 2, wide),) if licensed else _affine(wide)
        yield "copy", 1, wide
        yield "max", 1, narrow


def _affine(wide: DType) -> Iterator[tuple[str, int, DType]]:
    yield from (("sub", 2, wide), ("mul", 2, wide), ("add", 2, wide))


_ROLES = kernels_dsl.source("bn_relu_conv_stats")

# The first layer's input is an image, which nothing normalises.
PROBLEMS = {
    **{name: NpuProblem(name, _CONV_BN_RELU, conv) for name, conv in RESNET50.items()},
    **{
        f"{name}t": NpuProblem(f"{name}t", _ROLES, conv, roles=2)
        for name, conv in RESNET50.items()
        if name != "c01"
    },
}
