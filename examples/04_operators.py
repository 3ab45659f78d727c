"""opc.ops: operators that compile themselves for the shapes they meet, in C order or channels last."""

import numpy as np

from opc import ops

x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
w = np.random.default_rng(1).standard_normal((8, 3, 3, 3), np.float32)

y = ops.relu(ops.conv2d(x, w, stride=2, pad=1))
print(y.shape, "smallest", y.min())

channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
z = ops.max_pool2d(channels_last)
print(z.shape, "strides", z.strides)

out = np.empty((2, 8, 8, 8), np.float32)
ops.conv2d(x, w, stride=2, pad=1, out=out)
print("out= holds the same:", np.array_equal(np.maximum(out, 0), y))
