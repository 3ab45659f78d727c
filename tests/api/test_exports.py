"""``opc.__all__`` is sorted, complete and lazy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import opc


def test_all_is_sorted_and_importable() -> None:
    assert opc.__all__ == sorted(opc.__all__)
    for name in opc.__all__:
        assert getattr(opc, name) is not None
    assert dir(opc) == opc.__all__


def test_import_is_light() -> None:
    code = "import sys, opc; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "llvmlite", "opc.driver"} & set(loaded)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="frob"):
        opc.frob  # noqa: B018
