/*
 * A kernel in a C program, without Python. Compile the kernel, then this file with the object or the shared object:
 *
 *   opc compile kernels_dsl/conv_bn_relu.k --target cpu --layout nhwc --set C=16,H=14,W=14,K=32 --emit obj,header,so -o build
 *   gcc -std=c11 -Wall -Wextra -Werror -Ibuild/conv_bn_relu examples/06_call_from_c.c build/conv_bn_relu/conv_bn_relu.o -o conv
 *   ./conv
 *
 * Add -fopenmp to run on several threads. With a file name the program writes the result there, as bytes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "conv_bn_relu.h"

enum { C = 16, H = 14, W = 14, K = 32, R = 3, S = 3 };

/* Small numbers that every program can make again. */
static void fill(float *array, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; i++) array[i] = (float)((i * 7 + seed) % 31) / 16.0f + 0.25f;
}

static const char *meaning(int status) {
  switch (status) {
    case OPC_NO_FEATURE: return "this processor lacks instructions that the kernel uses";
    case OPC_NO_PERMISSION: return "the operating system refused the tile registers";
    case OPC_BAD_POINTER: return "a pointer is null or not aligned";
    case OPC_NO_MEMORY: return "out of memory";
    default: return "all is well";
  }
}

int main(int argc, char **argv) {
  static float x[H * W * C], w[K * C * R * S], gamma[K], beta[K], mean[K], var[K], y[H * W * K];
  fill(x, sizeof x / sizeof *x, 1);
  fill(w, sizeof w / sizeof *w, 2);
  fill(gamma, K, 3);
  fill(beta, K, 4);
  fill(mean, K, 5);
  fill(var, K, 6);

  void *packed = aligned_alloc(64, opc_conv_bn_relu_packed_size());
  void *workspace = aligned_alloc(64, opc_conv_bn_relu_workspace_size());
  if (!packed || !workspace) return 1;

  /* Parameters are packed once ... */
  int status = opc_conv_bn_relu_prepare(w, gamma, beta, mean, var, packed);
  /* ... for any number of runs. */
  if (status == OPC_OK) status = opc_conv_bn_relu_run(x, packed, y, workspace);
  free(packed);
  free(workspace);
  if (status != OPC_OK) {
    fprintf(stderr, "conv_bn_relu: %s\n", meaning(status));
    return 2;
  }
  printf("y[0] = %g, y[last] = %g\n", (double)y[0], (double)y[H * W * K - 1]);
  if (argc > 1) {
    FILE *file = fopen(argv[1], "wb");
    if (!file || fwrite(y, sizeof y, 1, file) != 1 || fclose(file)) return 3;
  }
  return 0;
}
