"""Which ops become one group, and what every grouping guarantees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opc import machine
from opc.pipeline import Context
from opc.tensor.ir import Function, reads
from opc.tensor.text import parse_function
from passes.tensor._groups import groups
from passes.tensor.fuse import Fuse
from tests.passes.tensor.chains import chains

CONTEXT = Context(machine.load("ascend910"))
FILETESTS = Path("tests/filetests/tensor")


def fuse(f: Function, **options: bool) -> Function:
    result: Function = Fuse(**options).run(f, CONTEXT)
    return result


def load(name: str) -> Function:
    text = (FILETESTS / f"{name}.ir").read_text(encoding="utf-8")
    return parse_function(text.partition("\n")[2].partition("\n# ====\n")[0] + "\n")


def kinds(f: Function) -> list[tuple[str, str]]:
    return [(g.kind, " ".join(op.name for op in g.ops)) for g in groups(f)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fuse", [("contraction", "a e b y"), ("pointwise", "z")]),
        ("fuse-ragged", [("pointwise", "w_packed"), ("contraction", "a y")]),
        ("fuse-softmax", [("rows", "s m e z y")]),
        ("fuse-layer-norm", [("rows", "mean y")]),
        ("fuse-rms-norm", [("rows", "s y")]),
        ("fuse-depthwise", [("rows", "a y")]),
        ("fuse-pool", [("pointwise", "h"), ("rows", "a y")]),
        ("fuse-pieces", [("pointwise", "r"), ("pieces", "c"), ("pointwise", "y z")]),
    ],
)
def test_kinds(name: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(fuse(load(name))) == expected


@pytest.mark.parametrize(
    ("name", "option"), [("fuse", "epilogue"), ("fuse-softmax", "rows"), ("fuse-pieces", "pointwise")]
)
def test_each_kind_can_be_switched_off(name: str, option: str) -> None:
    before = max(len(g.ops) for g in groups(fuse(load(name))))
    others: dict[str, Any] = {"epilogue": False, "rows": False, "pointwise": False}
    assert max(len(g.ops) for g in groups(fuse(load(name), **{**others, option: True}))) == before
    assert all(len(g.ops) == 1 for g in groups(fuse(load(name), **others)))
    assert all(len(g.ops) == 1 for g in groups(fuse(load(name), enabled=False)))


def test_shared_dimensions() -> None:
    (softmax,) = groups(fuse(load("fuse-softmax")))
    assert [d.name for d in softmax.shared] == ["i"]
    assert softmax.internal == {"s", "m", "e", "z", "y"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(f=st.shared(chains(), key="f"))
def test_groups_run_in_order(f: Function) -> None:
    """Every group is adjacent, reads only what is there before it, and a contraction leads its own."""
    fused = fuse(f)
    assert sorted(op.name for op in fused.ops) == sorted(op.name for op in f.ops)
    known = {a.tensor.name for a in f.args}
    for group in groups(fused):
        assert all(op.group == group.name for op in group.ops)
        for op in group.ops:
            assert all(r.tensor in known for r in reads(op))
            known |= {t.name for t in op.outputs}
        if group.kind == "contraction":
            assert all(op.pieces[0].dims == group.shared for op in group.ops)
    assert len({g.name for g in groups(fused)}) == len(groups(fused))
