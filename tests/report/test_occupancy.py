"""Memories over time, rooflines, and drawings of them."""

from __future__ import annotations

import pytest

import kernels_dsl
from opc import driver, npu
from opc.npu.occupancy import occupancy
from opc.npu.roofline import roofline
from opc.report.pipes_text import drawing, stalls_table

TEXT = """listing v1 twice machine ascend910
tensor x: f32[512] input
tensor y: f32[512] output
buffer a: ub 1024 at 0, 1024
core c < 1 {
  loop i < 2 {
    MTE2 copy_gm_to_ub f32@ub[i*1024 | j:4] = f32@gm:x[i*1024 | j:4] for j<256
    set_flag MTE2, V, i mod 2
    wait_flag MTE2, V, i mod 2
    V vmuls f32@ub[i*1024 | j:4] = f32@ub[i*1024 | j:4], 2.0 for j<256
    set_flag V, MTE3, i mod 2
    wait_flag V, MTE3, i mod 2
    MTE3 copy_ub_to_gm f32@gm:y[i*1024 | j:4] = f32@ub[i*1024 | j:4] for j<256
  }
}
"""


def timeline() -> npu.Timeline:
    return npu.time(npu.parse_listing(TEXT))


def test_a_value_lives_from_its_write_to_its_last_use() -> None:
    found = timeline()
    (ub,) = occupancy(found)
    assert (ub.space, ub.capacity, ub.peak) == ("ub", 262144, 2048)
    events = list(found.events())
    loads = [e for e in events if e.pipe == "MTE2"]
    stores = [e for e in events if e.pipe == "MTE3"]
    # In place: the product takes over the bytes of what it reads.
    expected = [
        (loads[0].start, 1024),
        (loads[1].start, 2048),
        (stores[0].complete, 1024),
        (stores[1].complete, 0),
    ]
    assert list(ub.steps) == expected


@pytest.mark.parametrize("name", ["conv_bn_relu", "softmax", "layer_norm", "max_pool2d"])
def test_no_memory_holds_more_than_it_can(name: str) -> None:
    machine = driver.target_machine("npu")
    function = driver.specialise(kernels_dsl.source(name), name, machine)
    kernel = driver.npu_kernel(driver.build(function, machine))
    found = occupancy(kernel.timeline)
    assert {o.space for o in found} >= {"ub"}
    for memory in found:
        assert 0 < memory.peak <= memory.capacity
        assert memory.steps[-1][1] == 0
        assert [t for t, _ in memory.steps] == sorted({t for t, _ in memory.steps})


def test_roofline_counts_work_and_traffic() -> None:
    found = roofline(timeline())
    assert (found.operations, found.bytes) == (512, 2 * 2048)
    machine = driver.target_machine("npu")
    function = driver.specialise(
        kernels_dsl.source("matmul"), "matmul", machine, None, {"M": 64, "K": 64, "N": 64}
    )
    whole = roofline(driver.npu_kernel(driver.build(function, machine)).timeline)
    assert whole.cube_peak == 8192
    assert 0 < whole.performance < whole.cube_peak
    assert whole.intensity * whole.bandwidth > 0


def test_drawing_has_a_line_for_each_pipe() -> None:
    found = timeline()
    lines = drawing(found, 0, found.cycles, 40).splitlines()
    assert len(lines) == 1 + len(found.pipes)
    busy = {line.split()[0]: float(line.split()[-1].rstrip("%")) for line in lines[1:]}
    assert busy["MTE2"] == pytest.approx(100 * found.busy_share["MTE2"], abs=0.06)
    assert busy["CUBE"] == 0
    assert "█" in drawing(found, 0, found.cycles, 40)
    assert drawing(found, 0, found.cycles, 40, plain=True).isascii()
    assert "wait_flag V, MTE3" in stalls_table(found)
