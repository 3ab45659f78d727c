"""Compile a function for a machine, run it there, and hold every result to the oracle's bound."""

from __future__ import annotations

from opc import data, driver
from opc.arrays import Array
from opc.machine.model import Machine
from opc.tensor.bound import check
from opc.tensor.interpret import oracle
from opc.tensor.ir import Function


def results(
    function: Function, target: Machine, arrays: dict[str, Array], threads: int = 1
) -> dict[str, Array]:
    """Every result of ``function`` on ``target``; inout arguments change in place."""
    built = driver.build(function, target)
    if target.kind == "npu":
        found = driver.npu_kernel(built).simulate(arrays)
    else:
        found = driver.callable_kernel(built, threads).results(arrays)
    return {**arrays, **found}


def assert_correct(
    function: Function, target: Machine, seed: int = 0, kind: str = "normal", threads: int = 1
) -> None:
    """Compare with the oracle, exactly where every operation is exact on this data."""
    arrays = data.arguments(function, seed, kind)
    expected = oracle(function, arrays)
    found = results(function, target, arrays, threads)
    for name in function.results:
        report = check(found[name], expected[name])
        assert report.ok, f"{function.name} on {target.name}, {kind} data, seed {seed}: {name}: {report}"
