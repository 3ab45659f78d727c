"""Convolution with batch statistics, normalisation and ReLU, forward and backward: one block of a training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

import kernels_dsl
from benchmarks.case import Array, Arrays, Case, Sizes, numpy_dtype
from benchmarks.problems.layer import LayerProblem

EPS = 1e-5
MOMENTUM = 0.1
WRT = ("x", "w", "gamma", "beta")
RESULTS = ("y", *(f"d_{name}" for name in WRT))
# 3x3 of every stage, 1x1 that narrow, widen and stride, a strided 3x3. The first layer's image needs no gradient.
NAMES = ("c03", "c05", "c07", "c08", "c11", "c14", "c15", "c17", "c20", "c23")
QUICK = ("c03", "c14")
QUICK_SIMULATED = ("c17",)
_SEED = 54


@dataclass(frozen=True)
class TrainProblem(LayerProblem):
    """One block of ResNet-50: y, and the gradients of everything that goes in, from the gradient of y."""

    @property
    def source(self) -> str:
        """The forward kernel's text."""
        return kernels_dsl.source("conv_bn_relu_train")

    @property
    def sizes(self) -> Sizes:
        """Sizes and attributes of the kernel, which knows groups."""
        return {**super().sizes, "CG": self.conv.channels}

    @property
    def flops(self) -> int:
        """Operations of the convolution and of its two gradients."""
        return 3 * super().flops

    @property
    def moved(self) -> int:
        """Bytes of the two images, the weights and their gradients."""
        return 2 * super().moved

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of arguments and result, images as they lie in memory."""
        c, n = self.conv, self.case.batch
        return {
            "x": (n, c.image, c.image, c.channels),
            "w": (c.filters, c.channels, c.size, c.size),
            "gamma": (c.filters,),
            "beta": (c.filters,),
            "y": (n, c.out, c.out, c.filters),
        }

    def arrays(self) -> Arrays:
        """Arguments and d_y: normal data, weights scaled so that the convolution's result has variance one."""
        c, kind, shapes = self.conv, numpy_dtype(self.case.dtype), self.shapes
        random = np.random.default_rng(_SEED)
        x, w, dy = (random.standard_normal(shapes[name], np.float32) for name in ("x", "w", "y"))
        w *= (c.channels * c.size**2) ** -0.5
        vectors = random.standard_normal((2, c.filters), np.float32)
        return {
            "x": x.astype(kind).transpose(0, 3, 1, 2),
            "w": w.astype(kind),
            "gamma": 1 + np.clip(vectors[0], -2, 2) / 4,
            "beta": vectors[1],
            "d_y": dy.astype(kind).transpose(0, 3, 1, 2),
        }

    def parts(self) -> Iterator[tuple[Sizes, Arrays]]:
        """The whole: statistics tie the images together."""
        yield self.sizes, self.arrays()

    def joined(self, found: Sequence[Array]) -> Array:
        """Results one after the other as f32, images channels last: what a worker hands over."""
        images = (a.transpose(0, 2, 3, 1) if i < 2 else a for i, a in enumerate(found))
        return np.concatenate([a.astype(np.float32).ravel() for a in images])

    def parted(self, joined: Array) -> Arrays:
        """The results by name, as ``joined`` took them."""
        shapes = [self.shapes["y"], *(self.shapes[name] for name in WRT)]
        ends = np.cumsum([prod(shape) for shape in shapes])
        pieces = np.split(joined, ends[:-1])
        return {n: p.reshape(s) for n, p, s in zip(RESULTS, pieces, shapes, strict=True)}


def problem(case: Case) -> TrainProblem:
    """The problem of a case of family "train"."""
    return TrainProblem(case)
