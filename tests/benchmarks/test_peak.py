"""The loops that measure what a machine can do compute what their operation counts say."""

from __future__ import annotations

import pytest

from benchmarks import peak
from benchmarks.team import Team
from tests.cpu import tile_trap


def test_multiply_adds_run_on_every_thread() -> None:
    call, each = peak._fma_loop()
    assert each in (2 * 8 * 12, 2 * 16 * 24)
    assert Team([0]).size == 1
    assert Team([0])(lambda index: call(10)) > 0
    assert peak.operations("f32", 1) > 1e8


@pytest.mark.skipif(not tile_trap.available(), reason="needs an x86-64 host without AMX, and gcc")
def test_tile_products_are_legal_and_four_a_turn(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, each = peak._tile_loop()
    assert each == 4 * 2 * 16 * 16 * 32
    with tile_trap.trapping(tmp_path_factory.getbasetemp(), monkeypatch) as trapped:
        call(3)
    assert trapped.faults == 0, trapped.message
    assert trapped.counts["tdpbf16ps"] == 4 * 3
    assert trapped.counts["ldtilecfg"] == trapped.counts["tilerelease"] == 1
