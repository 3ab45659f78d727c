"""Plans for tile registers: results of every class of layer, and counts of what the plans make the machine do."""

from __future__ import annotations

import re
from math import ceil, prod

import pytest

from kernels_dsl import source
from opc import driver, machine
from opc.build import run_passes
from opc.cpu import aot
from opc.cpu.kernel import lower
from opc.dtypes import DType
from opc.pipeline import Context
from opc.program.ir import instructions
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from passes import PIPELINES, load
from passes.lowering._knobs import Knobs
from passes.lowering._matmul_tiles import TileNest
from passes.lowering.tile import Lowering
from tests.cpu import tile_trap
from tests.cpu.tile_model import LAYERS
from tests.helpers import execute_function
from tests.lowering.test_lowering import lowered
from tests.lowering.test_machine_code import run_module

AMX = machine.load("amx")
# n, c, h, k, window, stride, padding: what the layers of networks are made of, and what is odd.
SMALL = {
    "first": (2, 3, 20, 16, 7, 2, 3),
    "images-side-by-side": (8, 64, 7, 48, 3, 1, 1),
    "images-side-by-side-strided": (8, 48, 7, 32, 3, 2, 1),
    "long-rows": (1, 32, 33, 32, 3, 1, 1),
    "odd-channels": (1, 37, 9, 20, 3, 1, 1),
    "odd-columns": (3, 64, 5, 70, 1, 1, 0),
    "strided": (2, 96, 14, 64, 1, 2, 0),
    "one-pixel": (1, 64, 1, 64, 1, 1, 0),
    "odd-batch": (5, 40, 6, 33, 3, 1, 1),
}


def layer(n: int, c: int, h: int, k: int, window: int, stride: int, pad: int) -> Function:
    """A convolution, batch norm and ReLU in bf16, channels last."""
    sizes = {"N": n, "C": c, "H": h, "W": h, "K": k, "R": window, "S": window, "stride": stride, "pad": pad}
    return driver.specialise(source("conv_bn_relu"), "layer.k", AMX, None, sizes, "bf16", "nhwc")


def nest(function: Function) -> TileNest:
    """The lowering of the function's only contraction."""
    arranged, _ = run_passes(function, driver.pipeline("tensor"), AMX)
    (found,) = Lowering(arranged, AMX, False).contractions()
    assert isinstance(found, TileNest)
    return found


@pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")
@pytest.mark.parametrize("sizes", SMALL.values(), ids=list(SMALL))
def test_layers_as_machine_code(
    sizes: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = layer(*sizes)
    arrays = random_inputs(function, 5)
    expected = oracle(function, arrays)["y"]
    with tile_trap.trapping(tmp_path_factory.getbasetemp(), monkeypatch) as trapped:
        found = [run_module(lowered(function, "amx"), function, "amx", arrays, n, True)["y"] for n in (1, 2)]
    assert trapped.faults == 0, trapped.message
    report = check(found[0], expected)
    assert report.ok, str(report)
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")
@pytest.mark.parametrize("name", ["images-side-by-side", "long-rows", "odd-columns", "odd-batch"])
def test_statistics_as_machine_code(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, c, h, k, window, stride, pad = SMALL[name]
    sizes = {"N": n, "C": c, "H": h, "W": h, "K": k, "CG": c, "R": window, "S": window}
    sizes |= {"stride": stride, "pad": pad}
    text = source("conv_bn_relu_train")
    function = driver.specialise(text, "layer.k", AMX, None, sizes, "bf16", "nhwc")
    arrays = random_inputs(function, 5)
    expected = oracle(function, arrays)
    with tile_trap.trapping(tmp_path_factory.getbasetemp(), monkeypatch):
        found = [run_module(lowered(function, "amx"), function, "amx", arrays, n, True) for n in (1, 2)]
    for result in function.results:
        report = check(found[0][result], expected[result])
        assert report.ok, f"{result}: {report}"
        assert found[0][result].tobytes() == found[1][result].tobytes()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("number", range(1, len(LAYERS) + 1))
def test_plans_of_resnet_layers(number: int, batch: int) -> None:
    c, h, k, window, stride, pad = LAYERS[number - 1]
    plan = nest(layer(batch, c, h, k, window, stride, pad)).tiling
    pixels = batch * ((h + 2 * pad - window) // stride + 1) ** 2
    wide = ceil(plan.columns / 16)
    assert (plan.rows.count + wide) / (plan.rows.count * wide) <= (1.0 if pixels > 49 else 1.5)
    steps = (h + 2 * pad - window) // stride + 1
    slabs = prod(
        ceil(e / s) for e, s in zip((batch, steps, steps)[-len(plan.slab) :], plan.slab.values(), strict=True)
    )
    tiles = plan.rows.count * plan.rows.blocks(plan.slab) * slabs
    near = AMX.role("stage").capacity * 3 // 2
    far = c * k * window**2 * 2 > near
    # One image of 7x7 fills 4 tiles of 16 rows to .77 at best, and waits for its weights anyway.
    least = 0.4 if pixels <= 49 else 0.75 if far and batch * c * h * h * 2 > near // 2 else 0.85
    assert pixels / (16 * tiles) >= least
    if far:
        # Weights that do not stay near are read once, or as often as slabs of several images come.
        assert slabs <= max(1, batch // 2)


def test_the_tiles_of_a_kernel_are_configured_once() -> None:
    function = layer(1, 64, 14, 64, 3, 1, 1)
    module = lowered(function, "amx")
    for step in PIPELINES["program"]:
        module = load(step)().run(module, Context(AMX))
    text = aot.emit_assembly(lower(None, module.run, AMX))
    assert text.count("ldtilecfg") == 1
    assert len(re.findall(r"\ttdpbf16ps", text)) >= 4


def test_the_choices_of_a_plan_reproduce_it() -> None:
    found = nest(layer(8, 256, 14, 256, 3, 1, 1))
    for priced in found.priced[:8]:
        knobs = Knobs.parse(str(priced.plan.knobs))
        arranged, _ = run_passes(layer(8, 256, 14, 256, 3, 1, 1), driver.pipeline("tensor"), AMX)
        (again,) = Lowering(arranged, AMX, False, (knobs,)).contractions()
        assert isinstance(again, TileNest)
        assert again.tiling.knobs == priced.plan.knobs


def test_weights_from_afar_are_prefetched_by_every_block_of_rows() -> None:
    module = lowered(layer(1, 512, 7, 512, 3, 1, 1), "amx")
    found = [(i, loops) for i, loops in instructions(module.run.body) if i.op == "prefetch"]
    ((instr, loops),) = found
    lines = prod(e for _, e in instr.dims) * DType.BF16.bytes // 64 * prod(loop.extent for loop in loops)
    assert lines >= 512 * 512 * 9 * 2 // 64


# Transposed, batched, of two types, of one row: what else becomes products of tiles, or must not.
PRODUCTS = {
    "mixed": ("x: bf16[M,K], param w: f32[K,N]", "y: f32[M,N]", "y[i,j] = sum[k](x[i,k]*w[k,j])"),
    "transposed": ("x: bf16[K,M], w: bf16[N,K]", "y: bf16[M,N]", "y[i,j] = sum[k](x[k,i]*w[j,k])"),
    "batched": (
        "x: bf16[B,M,K], w: bf16[B,K,N]", "y: f32[B,M,N]", "y[b,i,j] = sum[k](x[b,i,k]*w[b,k,j])",
    ),
    "row": ("x: bf16[K], param w: bf16[K,N]", "y: f32[N]", "y[j] = sum[k](x[k]*w[k,j])"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    arguments, result, body = PRODUCTS[name]
    sizes = ", ".join(
        f"{n} = {e}"
        for n, e in (("B", 3), ("M", 70), ("N", 50), ("K", 111))
        if re.search(rf"\b{n}\b", arguments)
    )
    text = f"kernel f({arguments}) -> ({result}) {{ example {sizes}\n {body} }}"
    function = driver.specialise(text, "f.k", AMX)
    module = lowered(function, "amx")
    arrays = random_inputs(function, 3)
    report = check(execute_function(module, function, arrays)["y"], oracle(function, arrays)["y"])
    assert report.ok, str(report)
    tiles = {b.dtype for b in module.run.buffers if b.space == "tmm"}
    assert tiles == (set() if name == "mixed" else {DType.BF16, DType.F32})


def test_columns_that_arrive_at_run_time_and_fill_their_blocks() -> None:
    arguments, result, body = PRODUCTS["batched"]
    text = f"kernel f({arguments}) -> ({result}) {{ example B = 2, M = 40, N = 64, K = 64\n {body} }}"
    function = driver.specialise(text, "f.k", AMX)
    module = lowered(function, "amx")
    arrays = random_inputs(function, 5)
    report = check(execute_function(module, function, arrays)["y"], oracle(function, arrays)["y"])
    assert report.ok, str(report)
