"""A block's result and gradients against the same mathematics in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.case import Array, Arrays, Case
from benchmarks.check import Checker, Verdict
from benchmarks.problems.resnet50 import Conv
from benchmarks.problems.train import EPS, TrainProblem

# Of the largest element. Engines round and sum in their own order: a larger error is a mistake.
_LOOSE = {"f32": 1e-4, "bf16": 4e-2}
_IMAGE = (0, 1, 2)  # all axes but the channels


class TrainingChecker(Checker):
    """Every element of all results. Where ReLU's input is nearly zero either side may be right, so that the
    gradients are those of the side which the engine's own y took.
    """

    def __init__(self) -> None:
        super().__init__()
        self._references: dict[Case, Reference] = {}  # of one case

    def peer(self, case: Case, result: Array) -> Verdict:
        found = TrainProblem(case).parted(result)
        expected = self._of(case).results(found["y"] > 0)
        errors = {name: _error(found[name], value) for name, value in expected.items()}
        worst = max(errors, key=lambda name: errors[name])
        ratio = errors[worst] / _LOOSE[case.dtype]
        if ratio <= 1:
            return Verdict(None, ratio)
        return Verdict(f"{worst} is off by {errors[worst]:.2g} of its largest element", ratio)

    def _bounded(self, numerics: str, case: Case, result: Array) -> Verdict:
        return self.peer(case, result)

    def _of(self, case: Case) -> Reference:
        if case.data not in self._references:
            self._references = {case.data: Reference.of(TrainProblem(case.data))}
        return self._references[case.data]


def _error(found: Array, expected: Array) -> float:
    """NaN is an error too."""
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    return error if error == error else float("inf")


@dataclass(frozen=True)
class Reference:
    """The forward computation, kept for as many backward ones as there are engines; images channels last."""

    conv: Conv
    x: Array  # padded
    w: Array  # [R, S, C, K]
    gamma: Array
    dy: Array
    rstd: Array
    centred: Array  # normalised, before gamma and beta
    y: Array

    @staticmethod
    def of(what: TrainProblem) -> Reference:
        """Compute it."""
        arrays = {k: a.astype(np.float64) for k, a in what.arrays().items()}
        x, dy = (arrays[name].transpose(0, 2, 3, 1) for name in ("x", "d_y"))
        pad = what.conv.pad
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        w = np.ascontiguousarray(arrays["w"].transpose(2, 3, 1, 0))
        a = np.zeros(what.shapes["y"])
        for at, (r, s) in _windows(what.conv):
            a += x[at] @ w[r, s]
        rstd = 1 / np.sqrt(a.var(_IMAGE) + EPS)
        centred = (a - a.mean(_IMAGE)) * rstd
        y = np.maximum(centred * arrays["gamma"] + arrays["beta"], 0)
        return Reference(what.conv, x, w, arrays["gamma"], dy, rstd, centred, y)

    def results(self, positive: Array) -> Arrays:
        """Block and gradients, where ``positive`` says which elements ReLU let through."""
        dz = np.where(positive, self.dy, 0)
        d_beta, d_gamma = dz.sum(_IMAGE), (dz * self.centred).sum(_IMAGE)
        count = dz.size // dz.shape[-1]
        da = (dz - (d_beta + self.centred * d_gamma) / count) * (self.gamma * self.rstd)
        d_x, d_w = np.zeros_like(self.x), np.zeros_like(self.w)
        for at, (r, s) in _windows(self.conv):
            d_x[at] += da @ self.w[r, s].T
            d_w[r, s] = np.tensordot(self.x[at], da, (_IMAGE, _IMAGE))
        inner = slice(self.conv.pad, self.conv.pad + self.conv.image)
        gradients = (d_x[:, inner, inner], d_w.transpose(3, 2, 0, 1), d_gamma, d_beta)
        return {"y": self.y, **dict(zip(("d_x", "d_w", "d_gamma", "d_beta"), gradients, strict=True))}


def _windows(conv: Conv) -> Iterator[tuple[tuple[slice, ...], tuple[int, int]]]:
    """The pixels of the padded image that each element of a filter meets."""

    def along(r: int) -> slice:
        return slice(r, r + conv.stride * (conv.out - 1) + 1, conv.stride)

    for r in range(conv.size):
        for s in range(conv.size):
            yield (slice(None), along(r), along(s)), (r, s)
