"""Keep a compiled kernel in a file of canonical texts, load it, and overlap two calls."""

import tempfile
from pathlib import Path

import numpy as np

import kernels_dsl
import opc

kernel = opc.compile(kernels_dsl.path("softmax"), M=64, N=100)
x = np.random.default_rng(0).standard_normal((64, 100), np.float32)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "softmax.opc"
    kernel.save(path)
    loaded = opc.load(path)

first, second = kernel.start(x), loaded.start(x)
print("same bits:", np.array_equal(first.wait(), second.wait()))
print("rows sum to", first.wait().sum(axis=1)[:3])
