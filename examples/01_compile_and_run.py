"""Compile a shipped kernel, run it on NumPy arrays, compare with NumPy."""

import numpy as np

import kernels_dsl
import opc

kernel = opc.compile(kernels_dsl.path("linear_bias_relu"), M=32, K=64, N=48)
print(kernel)

random = np.random.default_rng(0)
x = random.standard_normal((32, 64), np.float32)
w = random.standard_normal(kernel.empty("w").shape, np.float32)
bias = random.standard_normal(kernel.empty("bias").shape, np.float32)

y = kernel(x, w, bias)
print("largest value", y.max())

# Parameters that stay the same are packed once.
bound = kernel.bind(w=w, bias=bias)
print("bound call agrees", np.array_equal(bound(x), y))
