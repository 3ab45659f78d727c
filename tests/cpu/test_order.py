"""The schedule is visible in the machine code: what stands among the tile multiplications, and how evenly."""

from __future__ import annotations

import re

import pytest

from kernels_dsl import source
from opc import driver
from opc.cpu import aot
from opc.cpu.kernel import lower
from opc.machine import load
from tests.cpu import tile_model

VECTOR = re.compile(r"\tv\w+\t")
SIZES = {
    "3x3": {"C": 64, "H": 56, "W": 56, "K": 64},
    "1x1": {"C": 256, "H": 14, "W": 14, "K": 1024, "R": 1, "S": 1, "pad": 0},
}


def assembly(sizes: dict[str, int], reordered: bool) -> list[str]:
    """Machine instructions of the compiled convolution."""
    machine = load("amx")
    function = driver.specialise(
        source("conv_bn_relu"),
        "conv_bn_relu.k",
        machine,
        sizes={"N": 1, **sizes},
        dtype="bf16",
        layout="nhwc",
    )
    built = driver.build(function, machine)
    if not reordered:
        built = driver.in_source_order(built)
    text = aot.emit_assembly(lower(None, built.module.run, machine))
    return [line for line in text.splitlines() if line.startswith(("\tv", "\tt", "\tj", ".LBB"))]


def blocks(lines: list[str]) -> list[list[str]]:
    """Straight runs of code."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith((".LBB", "\tj")):
            found.append([])
        else:
            found[-1].append("tdp" if "tdpbf16ps" in line else "vector" if VECTOR.match(line) else "tile")
    return found


def longest(block: list[str], kind: str, until: str) -> int:
    best = run = 0
    for item in block:
        run = 0 if item == until else run + (item == kind)
        best = max(best, run)
    return best


@pytest.mark.parametrize("name", SIZES)
def test_vector_work_stands_among_the_multiplications(name: str) -> None:
    lines = assembly(SIZES[name], reordered=True)
    mixed = [b for b in blocks(lines) if b.count("tdp") >= 4 and b.count("vector") >= 16]
    assert mixed
    for block in mixed:
        products, work = block.count("tdp"), block.count("vector")
        assert longest(block, "tdp", "vector") <= 4
        assert longest(block, "vector", "tdp") <= 8 + 2 * work / products


@pytest.mark.parametrize("name", SIZES)
def test_no_vector_register_is_spilled(name: str) -> None:
    lines = assembly(SIZES[name], reordered=True)
    assert sum("zmm" in line and "(%rsp)" in line for line in lines) <= 1


@pytest.mark.parametrize("name", SIZES)
def test_in_source_order_they_stand_apart(name: str) -> None:
    lines = assembly(SIZES[name], reordered=False)
    assert not [b for b in blocks(lines) if b.count("tdp") >= 4 and b.count("vector") >= 16]


def test_tiles_are_configured_once() -> None:
    text = "\n".join(assembly(SIZES["3x3"], reordered=True))
    assert text.count("tilerelease") == 1


@pytest.mark.parametrize(
    "sizes",
    [
        {"C": 64, "H": 28, "W": 28, "K": 48, "stride": 2},
        {"N": 2, "C": 32, "H": 9, "W": 9, "K": 20, "R": 1, "S": 1, "pad": 0},
    ],
)
def test_blocks_of_another_size_use_registers_of_their_shape(sizes: dict[str, int]) -> None:
    assert sum("tilerelease" in line for line in assembly(sizes, reordered=True)) == 1


def store_runs(lines: list[str]) -> list[int]:
    """Lengths of the runs of tile stores without a product between them."""
    words = [line.split()[0] for line in lines]
    kept = "".join("s" if w == "tilestored" else "p" for w in words if w in ("tilestored", "tdpbf16ps"))
    return [len(run) for run in kept.split("p") if run]


def test_tile_stores_stand_among_the_next_products() -> None:
    assert set(store_runs(assembly(SIZES["1x1"], reordered=False))) == {4}
    runs = store_runs(assembly(SIZES["1x1"], reordered=True))
    assert runs.count(1) >= 8  # both tiles of the loop's body
    assert len([n for n in runs if n > 1]) <= 2  # before the loop and after it


def test_the_model_sees_what_the_order_gains() -> None:
    gain, alone = tile_model.order(tile_model.LAYERS[13], 1)
    # Bounded by the products, whose shadow takes the epilogue; a shorter epilogue helps the source order only.
    assert gain > 1.05
    assert alone < 0.1
