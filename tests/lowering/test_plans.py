"""Choices of a plan: their text, their errors, and that no choice changes a bit of any result."""

from __future__ import annotations

import re
from itertools import product
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opc import driver, machine
from opc.cpu.jit import LOCK, optimise
from opc.cpu.kernel import lower
from opc.dtypes import DType
from opc.errors import OpcError
from opc.pipeline import Context, parse_passes
from opc.program.ir import Module, instructions
from opc.tensor.bound import check
from opc.tensor.inputs import random_inputs
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from opc.tensor.text import parse_function, print_function
from passes import PIPELINES, load
from passes.lowering._blocks import Cut, Unit, cut
from passes.lowering._knobs import Knobs
from passes.lowering.candidates import candidates
from passes.lowering.tile import Tile
from tests.lowering.test_lowering import FUNCTIONS, specialise
from tests.lowering.test_machine_code import CPUS, run_module

CONTRACTIONS = ("conv_bn_relu", "mm", "ragged", "deep", "deep_ragged", "grouped", "lin1")


CHOICES = st.builds(
    Knobs,
    rows=st.none() | st.integers(1, 20),
    slab=st.none() | st.integers(1, 9),
    images=st.none() | st.integers(1, 5),
    order=st.none() | st.sampled_from(["rows", "columns"]),
    prefetch=st.none() | st.sampled_from(["on", "off"]),
)


def arranged(function: Function, name: str) -> Function:
    """The function after the tensor pipeline."""
    context = Context(machine.load(name))
    for step in PIPELINES["tensor"]:
        function = load(step)().run(function, context)
    return function


def planned(function: Function, name: str, plans: str) -> Module:
    """The placed module with these plans."""
    context = Context(machine.load(name))
    ir: object = Tile(plans).run(function, context)
    for step in PIPELINES["lowering"][1:]:
        ir = load(step)().run(ir, context)
    assert isinstance(ir, Module)
    return ir


@given(CHOICES)
def test_knobs_read_back(knobs: Knobs) -> None:
    assert Knobs.parse(str(knobs)) == knobs


@pytest.mark.parametrize("text", ["rows=0", "rows=x", "order=up", "depth=3", "rows", "rows=²"])
def test_bad_knobs_are_refused(text: str) -> None:
    with pytest.raises(OpcError, match="plan") as caught:
        Knobs.parse(text)
    assert caught.value.code == "E0707"


def test_more_plans_than_contractions_are_refused() -> None:
    function = arranged(specialise(path("mm"), DType.F32), "avx2")
    with pytest.raises(OpcError, match="2 plans for 1 contractions"):
        planned(function, "avx2", "rows=4;rows=4")


def test_the_pass_takes_plans_from_text() -> None:
    (tile,) = parse_passes('tile{plans="rows=4 slab=2;order=columns"}', {"tile": Tile})
    assert tile == Tile("rows=4 slab=2;order=columns")


ROWS = """
func v1 images {
  arg x: f32[4,6,7,5] input
  arg w: f32[3,3,5,40] param
  op y: f32[4,STRIDED,40] sum accumulate f32 {
    piece n<4, p<P, q<Q, k<40 reduce r<3, s<3, c<5 at n, p, q, k =
      mul(x[n, p*S + r - 1, q*S + s - 1, c] else 0, w[r, s, c, k])
  }
  return y
}
"""


def images(stride: int) -> Function:
    """A convolution of several small padded images, whose rows fit register blocks in many ways."""
    p, q = (6 + stride - 1) // stride, (7 + stride - 1) // stride
    text = ROWS.replace("STRIDED", f"{p},{q}").replace("<P", f"<{p}").replace("<Q", f"<{q}")
    text = text.replace("*S", f"*{stride}" if stride > 1 else "")
    return parse_function(text.strip() + "\n", "images")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["avx2", "avx512", "portable"])
def test_no_choice_changes_a_bit(name: str, stride: int) -> None:
    function = images(stride)
    arrays = random_inputs(function, 7)
    tensors = arranged(function, name)
    first = run_module(planned(tensors, name, ""), function, name, arrays, 1)["y"]
    report = check(first, oracle(function, arrays)["y"])
    assert report.ok, report

    @settings(max_examples=6, deadline=None)
    @given(CHOICES, st.integers(1, 3))
    def same(knobs: Knobs, threads: int) -> None:
        other = run_module(planned(tensors, name, str(knobs)), function, name, arrays, threads)["y"]
        assert other.tobytes() == first.tobytes()

    same()


def test_rows_of_several_images_fill_a_register_block() -> None:
    """Seven pixels a row would leave blocks of four and three rows; a box of images or rows leaves none under six."""
    module = planned(arranged(images(1), "avx2"), "avx2", "rows=6 order=columns")
    blocks = [i for i, _ in instructions(module.run.body) if i.opcode == "cube.mma"]
    rows = [prod(e for n, e in i.dims if n[0] in "npq") for i in blocks]
    assert min(rows) >= 4
    stages = [i for i, _ in instructions(module.run.body) if i.fill is not None]
    assert len(stages) == 1  # padded once, for every block of columns


@pytest.mark.parametrize("extents", [(7, 7), (14, 14), (5, 3), (8, 7, 7), (49,), (1,)])
@pytest.mark.parametrize("most", [6, 14])
def test_blocks_cover_a_slab_and_few_are_thin(extents: tuple[int, ...], most: int) -> None:
    apart = [99999, 9999, 999][-len(extents) :]
    dims = tuple((n, e, a, 1, 0) for n, e, a in zip("npq"[-len(extents) :], extents, apart, strict=True))
    cycles, found = cut(dims, unit(most), 4608)
    covered = [point for block in boxes(found, ()) for point in block]
    assert len(covered) == len(set(covered)) == prod(extents)
    if prod(extents) >= 49:  # nearly what blocks of the best height would reach
        assert cycles < 4608 * prod(extents) * 1.07


def unit(most: int) -> Unit:
    return Unit(2, 2, 4, 32, most, vectors=2, vector_bytes=32, sets=64, ways=8, refill=32)


def test_rows_that_would_push_each_other_out_of_the_cache_are_not_in_one_block() -> None:
    _, near = cut((("q", 196, 64 * 63, 1, 0),), unit(14), 1024)
    _, same = cut((("q", 196, 4096, 1, 0),), unit(14), 1024)
    assert near is not None
    assert same is not None
    assert near.parts[0].size > 6 >= same.parts[0].size


def boxes(found: Cut | None, at: tuple[range, ...]) -> list[list[tuple[int, ...]]]:
    """The points of every block."""
    if found is None:
        return [list(product(*at))]
    starts = [(p.start + i * p.size, p) for p in found.parts for i in range(p.count)]
    return [b for first, p in starts for b in boxes(p.inside, (*at, range(first, first + p.size)))]


@pytest.mark.parametrize("name", ["avx2", "avx512"])
@pytest.mark.parametrize("stride", [1, 2])
def test_register_blocks_do_not_spill(name: str, stride: int) -> None:
    """The loops that multiply touch the stack nowhere, and multiply-adds are much of what they do."""
    assert_tight(planned(arranged(images(stride), name), name, ""), name, "vfmadd")


@pytest.mark.parametrize("stride", [1, 2])
def test_register_blocks_of_pairs_do_not_spill(stride: int) -> None:
    text = print_function(images(stride)).replace("f32[", "bf16[")
    function = arranged(parse_function(text, "images"), "avx512bf16")
    assert_tight(planned(function, "avx512bf16", ""), "avx512bf16", "vdpbf16ps")


def assert_tight(module: Module, name: str, multiply: str) -> None:
    target = machine.load(name)
    for step in PIPELINES["program"]:
        module = load(step)().run(module, Context(target))
    unit = lower(None, module.run, target)
    with LOCK:
        text = str(unit.target.machine().emit_assembly(optimise(unit.text, unit.target.machine())))
    loops = [b for b in re.split(r"\n(?=\.LBB)", text) if b.count(multiply) >= 8]
    assert loops
    for loop in loops:
        label = loop.partition(":")[0]
        body = loop.partition(f"\tjb\t{label}\n")[0]
        assert "(%rsp)" not in body
        assert body.count(multiply) * 3 > body.count("\n\tv")


PRODUCT = """kernel f(a: f32[M,K], b: f32[K,N]) -> (y: f32[M,N]) {
  example M = 512, K = 512, N = 512
  y[m,n] = sum[k](a[m,k] * b[k,n])
}"""


@pytest.mark.parametrize(("b", "read"), [("K,N", "k,n"), ("N,K", "n,k")])
def test_columns_that_arrive_at_run_time_are_packed_where_they_are_used(b: str, read: str) -> None:
    """No copy of all of B in memory and no second phase: each group of columns is packed near its core."""
    text = PRODUCT.replace("b: f32[K,N]", f"b: f32[{b}]").replace("b[k,n]", f"b[{read}]")
    run = planned(arranged(driver.specialise(text, "f.k", machine.load("avx2")), "avx2"), "avx2", "").run
    assert len(run.body) == 1
    assert not [x for x in run.buffers if x.kind == "workspace"]
    (near,) = [x for x in run.buffers if x.space == "l2"]
    copied = sum(prod(e for _, e in i.dims) * prod(loop.extent for loop in loops)
                 for i, loops in instructions(run.body) if any(d.buffer == near.name for d in i.dst))  # fmt: skip
    assert copied == 512 * 512


def path(name: str) -> Path:
    return FUNCTIONS[0].with_name(f"{name}.ir")


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("kernel", CONTRACTIONS)
def test_every_candidate_gives_the_same_bits(kernel: str, name: str, dtype: DType) -> None:
    function = specialise(path(kernel), dtype)
    arrays = random_inputs(function, 5)
    tensors = arranged(function, name)
    plans = candidates(tensors, machine.load(name))
    assert plans[0] == ""
    first = run_module(planned(tensors, name, ""), function, name, arrays, 1)
    for text in plans[1:]:
        other = run_module(planned(tensors, name, text), function, name, arrays, 2)
        for result in function.results:
            assert other[result].tobytes() == first[result].tobytes(), text
