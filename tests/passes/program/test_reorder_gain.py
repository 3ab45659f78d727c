"""Reordering must not cost: simulated cycles against those of the source order."""

from __future__ import annotations

from pathlib import Path

import pytest

from opc import driver, npu
from opc import machine as machines
from opc.build import run_passes
from opc.npu_kernel import NpuKernel
from opc.program.text import parse_program, print_program

KERNELS = Path(__file__).parents[3] / "kernels_dsl"

# An execution of the inner loop ends with the slot that the next begins with, as after peeling.
PEELED = """program v1 jump machine ascend910 {
  buffer x: f32[2,5,64]@gm input
  buffer y: f32[2,5,64]@gm output
  buffer t: f32[64]@ub local slots 2 at 0, 256
  parallel core < 1 {
    loop i < 2 {
      loop j < 5 {
        copy_in.copy t{i*6 + j}[k] = x[i, j, k] for k<64
        copy_out.copy y[i, j, k] = t{i*6 + j}[k] for k<64
      }
    }
  }
}
"""


@pytest.mark.parametrize("machine", ["ascend910", "ascend910b"])
@pytest.mark.parametrize("name", ["bn_relu_conv", "conv_bn_add_relu", "conv_bn_relu", "gelu", "matmul"])
def test_reordered_is_not_slower(name: str, machine: str) -> None:
    target, file = machines.load(machine), KERNELS / f"{name}.k"
    function = driver.specialise(file.read_text(), str(file), target, layout="nhwc")
    built = driver.build(function, target)
    source = NpuKernel(driver.in_source_order(built)).timeline.cycles
    assert NpuKernel(built).timeline.cycles <= 1.01 * source


def test_slots_that_do_not_go_on_across_executions_keep_running_ahead() -> None:
    target = machines.load("ascend910")
    program, _ = run_passes(parse_program(PEELED), (driver.pass_named("insert-sync")(),), target)
    listing = npu.parse_listing(npu.print_listing(npu.emit(program, target)))
    npu.prove(listing, target)
    inner = print_program(program).split("loop j")[1]
    wait = next(line for line in inner.splitlines() if "wait_flag MTE3 -> MTE2" in line)
    assert "j*" in wait, wait
