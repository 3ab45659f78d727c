"""The bars of the main job, one line each: ``bar NAME VALUE TARGET ok|short|n/a``.

    opc_compile_seconds   `opc compile kernels_dsl/conv_bn_relu.k` from the shell, interpreter start included
    opc_version_seconds   `opc --version` from the shell
    floor_f32             speed over oneDNN's fused convolution with packed weights, one thread, NHWC, f32
    floor_bf16            the same in bf16, on AMX

Times are the best of several runs; ratios compare runs taken in turn, because the machine may be noisy.
Run with ``make bench``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import opc

ROOT = Path(__file__).resolve().parent.parent
KERNEL = ROOT / "kernels_dsl" / "conv_bn_relu.k"
ROUNDS = 40


def main() -> int:
    """Print every bar; 0 whatever they say."""
    with tempfile.TemporaryDirectory() as folder:
        compile_seconds = shell_seconds("compile", str(KERNEL), "-o", folder)
    bar("opc_compile_seconds", compile_seconds, 1.0, at_most=True)
    bar("opc_version_seconds", shell_seconds("--version"), 0.15, at_most=True)
    for dtype in ("f32", "bf16"):
        bar(f"floor_{dtype}", ratio_to_onednn(dtype), 0.8)
    return 0


def bar(name: str, value: float | None, target: float, at_most: bool = False) -> None:
    """Print one line."""
    if value is None:
        print(f"bar {name} n/a {target} n/a")
        return
    good = value <= target if at_most else value >= target
    print(f"bar {name} {value:.3f} {target} {'ok' if good else 'short'}", flush=True)


def shell_seconds(*arguments: str, rounds: int = 5) -> float:
    """Wall time of an ``opc`` command, best of ``rounds``."""
    command = [str(Path(sys.executable).with_name("opc")), *arguments]
    # As every user has it: bytecode is kept from the first run on.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def call() -> None:
        subprocess.run(command, check=True, capture_output=True, env=env)

    return min(_timed(call) for _ in range(rounds))


def ratio_to_onednn(dtype: str) -> float | None:
    """OneDNN's time over ours on the example convolution; None where it cannot be measured."""
    from opc.cpu import features

    if dtype == "bf16" and not features.amx_permitted():
        return None
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    ours, theirs = our_call(dtype), onednn_call(torch, dtype)
    with torch.inference_mode():
        for call in (ours, theirs):
            for _ in range(5):
                call()
        # In turn, so that a change of clock or a noisy neighbour meets both.
        pairs = [(best(ours), best(theirs)) for _ in range(ROUNDS)]
    return min(t for _, t in pairs) / min(o for o, _ in pairs)


def our_call(dtype: str) -> Callable[[], Any]:
    """A call of the kernel with bound parameters, NHWC in and out."""
    kernel = opc.compile(KERNEL, dtype=dtype, layout="nhwc", threads=1, N=1, C=64, H=56, W=56, K=64)
    random = np.random.default_rng(0)

    def values(name: str) -> Any:
        array = kernel.empty(name)
        array[...] = np.asarray(random.uniform(0.5, 1.5, array.shape)).astype(array.dtype)
        return array

    bound = kernel.bind(**{s.name: values(s.name) for s in kernel.signature.params})
    x, y = values("x"), kernel.empty("y")
    return lambda: bound(x, out=y)


def onednn_call(torch: Any, dtype: str) -> Callable[[], Any]:
    """OneDNN's convolution with ReLU, weights and bias folded and packed ahead."""
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    last = torch.channels_last
    x = torch.rand(1, 64, 56, 56, dtype=kind).to(memory_format=last)
    w = torch.rand(64, 64, 3, 3, dtype=kind).to(memory_format=last)
    b = torch.rand(64, dtype=kind)
    one = [1, 1]
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(w.to_mkldnn(), one, one, one, 1, x.shape)
    return lambda: torch.ops.mkldnn._convolution_pointwise(x, packed, b, one, one, one, 1, "relu", [], "")


def best(call: Callable[[], Any], calls: int = 5) -> float:
    """Shortest of a few calls."""
    return min(_timed(call) for _ in range(calls))


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
