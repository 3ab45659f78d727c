"""Samples of the campaigns: mutants, random timings, random schedules."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from random import Random

import pytest

from benchmarks.sync.edits import mutants
from benchmarks.sync.mutants import collect, verdict
from benchmarks.sync.schedules import compare, schedule
from benchmarks.sync.shipped import arrays, listings
from benchmarks.sync.timings import differs
from opc.machine import load
from opc.npu.pairs import pairs, without
from opc.npu.trial import Outcome, Trial

MACHINE = load("ascend910")
SAMPLE = Namespace(only="softmax", count=50, timings=60, seed=3)


def test_mutants_that_a_timing_breaks_are_reported() -> None:
    found = [
        verdict(m, Trial(m.listing, m.number, arrays(m.listing), MACHINE), MACHINE, SAMPLE)[0]
        for m in collect(MACHINE, SAMPLE)
    ]
    assert "missed" not in found
    assert found.count("caught") > 15


def test_no_timing_turns_a_compiled_listing_round() -> None:
    for name in ("softmax", "conv_bn_relu", "layer_norm"):
        for _, listing in listings(MACHINE, name, larger=False):
            for n, phase in enumerate(listing.phases):
                trial = Trial(listing, n, arrays(listing), MACHINE)
                assert trial.outcome(phase, 50, 1) == Outcome("")


def test_random_timings_give_the_same_bits() -> None:
    for name in ("softmax", "max_pool2d", "conv_bn_relu"):
        for _, listing in listings(MACHINE, name, larger=False):
            assert differs(listing, 20, 5, MACHINE) == ""


def test_a_timing_that_breaks_a_listing_is_seen() -> None:
    listing = dict(listings(MACHINE, "softmax"))["softmax"]
    flags = [pair for pair in pairs(listing.phases[0], MACHINE) if len(pair) > 1]
    broken = [replace(listing, phases=(without(listing.phases[0], pair),)) for pair in flags]
    assert any(differs(b, 50, 5, MACHINE) for b in broken)


@pytest.mark.parametrize("name", ["ascend910", "ascend910b"])
def test_checkers_agree_on_random_schedules(name: str) -> None:
    met = set()
    for n in range(120):
        machine, listing = schedule(Random(1000 + n), name)
        met.add(compare(listing, machine))
    assert not [kind for kind in met if kind.startswith("differ")]
    assert {"", "race", "stuck"} <= met


def test_mutants_keep_the_work_of_a_phase() -> None:
    _, listing = next(iter(listings(MACHINE, "softmax")))
    assert len(list(mutants(listing.phases[0], MACHINE))) > 50
