"""Golden tests of passes: text in, text out, and the same meaning; ``--bless`` rewrites the text.

A file holds ``# RUN: pass-a,pass-b{size=4} machine=NAME numerics=fast``, the input IR, ``# ====`` and the expected
IR, or the diagnostic the passes must raise. Both texts must be canonical, and both are executed on the same
random data: a golden whose meaning differs from its input is never written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opc import data, machine
from opc.build import parse_ir, run_passes, text_of, verify
from opc.driver import pass_table
from opc.errors import OpcError
from opc.machine.model import Machine
from opc.pipeline import STRICT, parse_passes
from opc.program.ir import Module
from opc.tensor.bound import Bounded, check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function
from opc.tensor.views import viewed, viewed_bounds
from tests.helpers import execute, execute_function, instances, program_arguments

FOLDER = Path(__file__).parent / "filetests"
FILES = sorted(FOLDER.rglob("*.ir"))
# These may only move, unroll and synchronise instructions.
ORDER_ONLY = {"expand-slots", "pipeline", "stagger", "interleave", "list-schedule", "insert-sync"}
SEPARATOR = "\n# ====\n"
RUN = re.compile(r"# RUN: (?P<passes>.*?)(?: machine=(?P<machine>\S+))?(?: numerics=(?P<numerics>\S+))?$")


@dataclass(frozen=True)
class Case:
    """A parsed test file."""

    path: Path
    header: str
    passes: str
    machine: Machine
    numerics: str
    before: str
    after: str

    @staticmethod
    def read(path: Path) -> Case:
        header, _, rest = path.read_text(encoding="utf-8").partition("\n")
        match = RUN.match(header)
        assert match is not None, f"{path}: the first line must be '# RUN: passes machine=NAME'"
        before, _, after = rest.partition(SEPARATOR)
        return Case(
            path,
            header,
            match["passes"],
            machine.load(match["machine"] or "avx2"),
            match["numerics"] or STRICT,
            before.rstrip() + "\n",
            after,
        )

    def bless(self, after: str) -> None:
        self.path.write_text(f"{self.header}\n{self.before.rstrip()}{SEPARATOR}{after}", encoding="utf-8")


def transform(case: Case, ir: Any) -> tuple[str, Any]:
    """Text after the passes and their result, or the diagnostic and None."""
    try:
        result, _ = run_passes(
            ir, parse_passes(case.passes, pass_table()), case.machine, numerics=case.numerics
        )
    except OpcError as error:
        return str(error) + "\n", None
    return text_of(result), result


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(FOLDER)) for f in FILES])
def test_file(path: Path, bless: bool) -> None:
    case = Case.read(path)
    ir = parse_ir(case.before, path.name)
    assert text_of(ir) == case.before, "the input is not canonical text"
    verify(ir, case.machine)
    text, result = transform(case, ir)
    if result is not None:
        assert text_of(parse_ir(text, path.name)) == text, "the output does not read back"
        assert_same_meaning(ir, result, {p.name for p in parse_passes(case.passes, pass_table())})
    if bless:
        case.bless(text)
        return
    assert text == case.after, "run 'make bless' if the new text is right"


def assert_same_meaning(before: Any, after: Any, names: set[str]) -> None:
    """Execute both on the same data: within the oracle's bounds, or equal where programs are compared."""
    if not isinstance(before, Function):
        same_programs(before, after, names)
        return
    arrays = data.arguments(before, seed=1)
    expected = oracle(before, arrays)
    if isinstance(after, Function):
        # A gradient takes further arguments and has further results.
        given = data.arguments(after, seed=2) | viewed(arrays, before, after)
        known = {name: b for name, b in oracle(after, given).items() if name in before.results}
        found = viewed_bounds(known, after, before)
    else:
        found = execute_function(after, before, arrays)
    for name in before.results:
        want, got = expected[name], found[name]
        if isinstance(got, Bounded):
            close(name, want.value, got.value, want.bound + got.bound)
        else:
            report = check(got, want)
            assert report.ok, f"{name}: {report}"


def same_programs(before: Module, after: Module, names: set[str]) -> None:
    """Passes of the lowering may round otherwise; those of the program may not, and most only reorder."""
    arrays = program_arguments(before)
    left, right = execute(before, arrays), execute(after, arrays)
    lowering = any(pass_table()[n].level == "lowering" for n in names)
    for b in before.run.buffers:
        if b.kind not in ("output", "inout"):
            continue
        if lowering:
            slack = 64 * b.dtype.roundoff
            np.testing.assert_allclose(right[b.name], left[b.name], rtol=slack, atol=slack, err_msg=b.name)
        else:
            np.testing.assert_array_equal(right[b.name], left[b.name], err_msg=b.name)
    if names <= ORDER_ONLY:
        assert instances(before) == instances(after), "an order-only pass changed the set of instructions"


def close(name: str, value: Any, other: Any, bound: Any) -> None:
    same = (value == other) | (np.isnan(value) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        inside = same | (np.abs(value - other) <= bound)
    assert inside.all(), f"{name} changed its meaning at {np.argwhere(~inside)[:3].tolist()}"
