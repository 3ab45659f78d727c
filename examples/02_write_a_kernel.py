"""Write an operator as text: opc knows none by name."""

import numpy as np

import opc

SOURCE = """
kernel scaled_distance(a: T[M, D], b: T[N, D], scale: f32 = 0.5) -> (y: T[M, N]) {
  "scale times the squared distance of every row of a to every row of b."
  example M = 20, N = 30, D = 16
  y[i, j] = sum[d]((a[i, d] - b[j, d]) * (a[i, d] - b[j, d])) * scale
}
"""

kernel = opc.compile(SOURCE, M=5, N=7)
a = np.arange(5 * 16, dtype=np.float32).reshape(5, 16) / 16
b = np.ones((7, 16), np.float32)
y = kernel(a, b)
print(y[:, 0])
print("agrees with NumPy", np.allclose(y, 0.5 * ((a[:, None] - b[None]) ** 2).sum(-1), rtol=1e-5))
