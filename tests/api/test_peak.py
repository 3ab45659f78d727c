"""The limits that ``opc bench`` compares with come from programs that run here."""

from __future__ import annotations

import pytest

from opc import machine
from opc.cpu.features import pick_machine
from opc.dtypes import DType
from opc.peak import measure


@pytest.mark.parametrize("name", ["portable", pick_machine()])
def test_every_type_the_cube_takes_has_a_limit(name: str) -> None:
    target = machine.load(name)
    for dtype in (DType.F32, DType.BF16):
        peak = measure(target, dtype)
        assert peak.bytes > 0
        assert (peak.operations > 0) == (not target.feeds(dtype.compute))
