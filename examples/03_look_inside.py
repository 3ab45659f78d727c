"""The same kernel at every stage, and on the simulated NPU."""

import numpy as np

import kernels_dsl
import opc

kernel = opc.compile(kernels_dsl.path("conv_bn_relu"), dtype="f16", N=1, C=16, H=8, W=8, K=16)

print(kernel.tensor_ir)
print("\n".join(kernel.program_ir.splitlines()[:12]), "\n...")
print("\n".join(kernel.listing.splitlines()[:12]), "\n...")

timeline = kernel.timeline
print(f"{timeline.cycles:,.0f} cycles; busy:", {p: f"{s:.0%}" for p, s in timeline.busy_share.items() if s})

random = np.random.default_rng(0)
arrays = {s.name: random.uniform(0.5, 1.5, s.shape).astype(s.dtype) for s in kernel.signature.args}
cpu, npu = kernel(**arrays), kernel.simulate(**arrays)
print("CPU and NPU agree to", float(np.abs(cpu.astype(np.float32) - npu.astype(np.float32)).max()))
