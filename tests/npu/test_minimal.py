"""No flag or barrier that the compiler writes is needless: without any one of them the checker reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

import kernels_dsl
from opc import driver, npu
from opc.errors import ListingError, OpcError
from opc.machine import Machine, load
from opc.npu.listing import Listing, instructions
from opc.npu.pairs import pairs, without
from opc.program.ir import Program
from tests.npu.test_random import MACHINE, listing_of
from tests.strategies.program import programs

NPUS = ("ascend910", "ascend910b")
# Longer than the examples in the kernels' sources: loops that repeat, several images for a core.
LARGER = {
    "conv_bn_relu": {"N": 2, "C": 64, "H": 28, "W": 28, "K": 64},
    "conv_bn_add_relu": {"N": 40, "C": 40, "H": 14, "W": 14, "K": 24},
    "matmul": {"M": 512, "N": 512, "K": 512},
    "linear_bias_relu": {"M": 96, "K": 700, "N": 300},
    "softmax": {"M": 2000, "N": 300},
    "layer_norm": {"M": 2000, "N": 300},
    "batch_stats": {"N": 8, "C": 64, "H": 28, "W": 28},
    "max_pool2d": {"N": 2, "C": 64, "H": 56, "W": 56},
    "attention_scores": {"B": 1, "H": 2, "M": 300, "N": 300, "D": 64},
    "gelu": {"M": 500, "N": 300},
}


def needless(listing: Listing, machine: Machine) -> list[str]:
    """The pairs without which nothing is reported."""
    found = []
    for n, phase in enumerate(listing.phases):
        texts = [i for i, _ in instructions(phase.body)]
        for pair in pairs(phase, machine):
            phases = (*listing.phases[:n], without(phase, pair), *listing.phases[n + 1 :])
            try:
                npu.prove(replace(listing, phases=phases), machine)
            except ListingError:
                continue
            found.append(f"{[(texts[k].mnemonic, texts[k].flag) for k in pair]} of phase {n}")
    return found


def compiled(name: str, machine: Machine, sizes: dict[str, int]) -> list[Listing]:
    try:
        function = driver.specialise(kernels_dsl.source(name), name, machine, name, sizes)
        built = driver.build(function, machine)
    except OpcError as refusal:
        pytest.skip(str(refusal))
    return [npu.emit(p, machine) for p in built.module.programs if p.body]


@pytest.mark.parametrize("target", NPUS)
@pytest.mark.parametrize("name", kernels_dsl.names())
def test_every_pair_of_a_shipped_kernel_is_needed(name: str, target: str) -> None:
    for sizes in ({}, LARGER.get(name)):
        for listing in compiled(name, load(target), sizes) if sizes is not None else ():
            npu.prove(listing, load(target))
            assert needless(listing, load(target)) == []


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs("ascend910"))
def test_every_pair_of_a_random_program_is_needed(program: Program) -> None:
    _, listing = listing_of(program)
    assert needless(listing, MACHINE) == []
