"""opc kernels as functions of torch tensors: differentiable, usable under ``torch.compile``, without copies.

    import opc.torch
    y = opc.torch.conv_bn_relu(x, w, gamma, beta, running_mean, running_var, training=True)
    f = opc.torch.function("dense.k", "dense", wrt=["x", "w", "bias"])

Needs PyTorch 2.13: ``pip install 'opc-compiler[torch]'``.
"""

from __future__ import annotations

from opc.errors import RuntimeCallError, fail

try:
    import torch as _torch
except ImportError:
    raise fail(
        RuntimeCallError, "E0939", "opc.torch needs PyTorch", help="pip install 'opc-compiler[torch]'"
    ) from None

from pathlib import Path as _Path

from opc.cpu.threads import share as _share
from opc.torch.blocks import conv_bn_relu
from opc.torch.function import Function, function

_share(str(_Path(_torch.__file__).parent))

__all__ = ["Function", "conv_bn_relu", "function"]
