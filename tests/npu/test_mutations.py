"""Breaking the synchronisation of listings: the checker must report whatever a timing can break."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import opc
from opc import npu
from opc.affine import Affine
from opc.errors import ListingError
from opc.npu.adversarial import replay
from opc.npu.listing import Instruction, Listing, Loop, Statement
from tests.npu.samples import PIPELINED, barriers, chained, machine, place, sample

MACHINE = machine()
SEEDS = range(6)


KERNELS = Path(__file__).resolve().parents[2] / "kernels_dsl"


def compiled(name: str, **sizes: int) -> Listing:
    """The listing of a shipped kernel's run entry."""
    kernel = opc.compile(KERNELS / f"{name}.k", machine="ascend910", **sizes)
    return npu.parse_listing(kernel.listing[kernel.listing.rindex("listing v1") :])


@cache
def corpus() -> dict[str, Listing]:
    planned = place(sample(), MACHINE)
    return {
        "softmax": compiled("softmax", M=4, N=40),
        "conv_bn_relu": compiled("conv_bn_relu", C=16, H=6, W=6, K=16),
        "pipelined": npu.parse_listing(PIPELINED),
        "chained": npu.emit(chained(planned, MACHINE), MACHINE),
        "barriers": npu.emit(barriers(planned), MACHINE),
    }


def inputs(listing: Listing) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        t.name: rng.integers(-3, 4, t.shape).astype(t.dtype.numpy)
        for t in listing.tensors
        if t.kind != "output"
    }


def edits(body: tuple[Statement, ...]) -> Iterator[tuple[str, tuple[Statement, ...]]]:
    """Each sync instruction deleted, moved by one, and renumbered."""
    for n, s in enumerate(body):
        if isinstance(s, Loop):
            for what, inner in edits(s.body):
                yield what, (*body[:n], replace(s, body=inner), *body[n + 1 :])
            continue
        if s.flag is None:
            continue
        name = f"{s.mnemonic} {s.flag[0]},{s.flag[1]},{s.flag[2]} at {n}"
        yield f"delete {name}", (*body[:n], *body[n + 1 :])
        if n + 1 < len(body):
            yield f"move down {name}", (*body[:n], body[n + 1], s, *body[n + 2 :])
        if n:
            yield f"move up {name}", (*body[: n - 1], s, body[n - 1], *body[n + 1 :])
        if s.mnemonic != "pipe_barrier":
            other = replace(s, flag=(s.flag[0], s.flag[1], s.flag[2] + 1))
            other = other if s.modulo or s.flag[2] == Affine() else replace(s, flag=(*s.flag[:2], Affine()))
            yield f"renumber {name}", (*body[:n], other, *body[n + 1 :])


def mutants(listing: Listing) -> Iterator[tuple[str, Listing]]:
    for n, phase in enumerate(listing.phases):
        for what, body in edits(phase.body):
            phases = (*listing.phases[:n], replace(phase, body=body), *listing.phases[n + 1 :])
            yield what, replace(listing, phases=phases)


def reported(listing: Listing) -> bool:
    try:
        npu.prove(listing, MACHINE)
    except ListingError:
        return True
    return False


def broken(listing: Listing, expected: dict[str, np.ndarray]) -> bool:
    """Whether some timing changes the result, loses a flag or does not end."""
    arrays = inputs(listing)
    for seed in SEEDS:
        try:
            found = replay(listing, arrays, seed, MACHINE)
        except ListingError:
            return True
        if any(found[name].tobytes() != expected[name].tobytes() for name in expected):
            return True
    return False


@pytest.mark.parametrize("name", ["softmax", "conv_bn_relu", "pipelined", "chained", "barriers"])
def test_every_mutant_that_a_timing_breaks_is_reported(name: str) -> None:
    listing = corpus()[name]
    assert not reported(listing)
    expected = npu.simulate(listing, inputs(listing), MACHINE)
    assert not broken(listing, expected)
    missed, caught, harmless = [], 0, 0
    for what, mutant in mutants(listing):
        flagged, breaks = reported(mutant), broken(mutant, expected)
        if breaks and not flagged:
            missed.append(what)
        caught += flagged and breaks
        harmless += not flagged and not breaks
    assert missed == []
    assert caught > 10


def test_text_of_a_mutant_reads_back() -> None:
    for _, mutant in mutants(corpus()["pipelined"]):
        text = npu.print_listing(mutant)
        assert npu.print_listing(npu.parse_listing(text)) == text


def test_sync_instructions_are_mutated() -> None:
    listing = corpus()["pipelined"]
    found = [i for i in listing.phases[0].body if isinstance(i, Instruction)]
    assert len(found) == 8
    assert len(list(mutants(listing))) > 50
