"""Convolution, batch normalisation and ReLU in one kernel, forward and backward."""

from __future__ import annotations

from typing import Any

import torch

import kernels_dsl
from opc.torch.function import function
from opc.torch.tensors import check

Tensor = Any
_WRT = ("x", "w", "gamma", "beta")
_EVAL = """
kernel conv_bn_relu_eval(x: T[N, C, H, W], param w: T[K, CG, R, S], param gamma: f32[K], param beta: f32[K],
                         param mean: f32[K], param var: f32[K], stride: int = 1, pad: int = 1, dilation: int = 1,
                         groups: int = 1, eps: f32 = 1e-5) -> (y: T[N, K, P, Q]) {
  "Convolution, batch normalisation with the running statistics, ReLU."
  let P = (H + 2*pad - dilation*(R - 1) - 1) // stride + 1
  let Q = (W + 2*pad - dilation*(S - 1) - 1) // stride + 1
  a = conv2d(x, w, stride=stride, pad=pad, dilation=dilation, groups=groups)
  y[n, k, p, q] = max((a[n, k, p, q] - mean[k]) * rsqrt(var[k] + eps) * gamma[k] + beta[k], 0)
}
"""
# Made at import: torch.compile reads what exists, and does not follow how it comes about.
TRAINING = function(kernels_dsl.path("conv_bn_relu_train"), "conv_bn_relu_train", wrt=_WRT)
INFERENCE = function(_EVAL, "conv_bn_relu_eval", wrt=_WRT)


def conv_bn_relu(
    x: Tensor,
    w: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    stride: int = 1,
    pad: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """``relu(batch_norm(conv2d(x, w)))`` with gradients by x, w, gamma and beta.

    ``x[N,C,H,W]`` in C order or channels last, ``w[K,C/groups,R,S]``, the rest ``[K]``. In training the statistics are
    those of the batch, and the running ones are updated in place as torch's batch norm does; otherwise they are
    used. The kernel has statistics, gamma and beta in f32 (f64 for an f64 x) and w in the dtype of x: master weights
    in f32 may stay as they are.
    """
    for name, tensor in (
        ("x", x),
        ("w", w),
        ("gamma", gamma),
        ("beta", beta),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        check(tensor, name)
    window = {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups, "eps": eps}
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    statistics = running_mean.to(wide), running_var.to(wide)
    given = (x, w.to(x.dtype), gamma.to(wide), beta.to(wide), *statistics)
    if not training:
        return INFERENCE(*given, **window)
    y = TRAINING(*given, momentum=momentum, **window)
    with torch.no_grad():
        for old, new in zip((running_mean, running_var), statistics, strict=True):
            if new is not old:
                old.copy_(new)
    return y
