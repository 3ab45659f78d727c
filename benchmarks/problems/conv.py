"""Convolution, batch normalisation and ReLU: the data, and the folded weights that libraries are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import kernels_dsl
from benchmarks.case import Array, Arrays, Case, Sizes, numpy_dtype
from benchmarks.problems.layer import LayerProblem

EPS = 1e-5
_SEED = 50


@dataclass(frozen=True)
class ConvProblem(LayerProblem):
    """One convolution of ResNet-50."""

    @property
    def source(self) -> str:
        """The kernel's text."""
        return kernels_dsl.source("conv_bn_relu")

    @property
    def kernel(self) -> str | None:
        """The text has no other."""
        return None

    def arrays(self) -> Arrays:
        """Normal data, weights scaled so that the convolution's result has variance one."""
        c, kind = self.conv, numpy_dtype(self.case.dtype)
        random = np.random.default_rng(_SEED)
        x = random.standard_normal((self.case.batch, c.image, c.image, c.channels), np.float32)
        w = random.standard_normal((c.filters, c.channels, c.size, c.size), np.float32)
        w *= (c.channels * c.size**2) ** -0.5
        vectors = random.standard_normal((4, c.filters), np.float32)
        return {
            "x": x.astype(kind).transpose(0, 3, 1, 2),
            "w": w.astype(kind),
            "gamma": 1 + np.clip(vectors[0], -2, 2) / 4,
            "beta": vectors[1],
            "mean": vectors[2] / 4,
            "var": 1 + np.clip(vectors[3], -2, 2) / 4,
        }

    def parts(self) -> Iterator[tuple[Sizes, Arrays]]:
        """The images one by one: they do not depend on each other, and the oracle's arrays stay small."""
        arrays = self.arrays()
        for i in range(self.case.batch):
            yield {**self.sizes, "N": 1}, {**arrays, "x": arrays["x"][i : i + 1]}

    def folded(self, arrays: Arrays) -> tuple[Array, Array]:
        """Weights and bias with the batch normalisation in them, f32; libraries do this ahead of time."""
        scale = arrays["gamma"] / np.sqrt(arrays["var"] + EPS)
        w = arrays["w"].astype(np.float32) * scale[:, None, None, None]
        return w, arrays["beta"] - arrays["mean"] * scale


def problem(case: Case) -> ConvProblem:
    """The problem of a case of family "conv"."""
    return ConvProblem(case)
