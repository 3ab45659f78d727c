"""The cache of compiled kernels: what one process compiled, the next one loads."""
