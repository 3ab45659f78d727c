"""``opc run FILE.k``: execute on CPU and NPU simulator, compare with the oracle within its bound."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opc import data, driver
from opc.arrays import Array, as_input
from opc.commands.options import Job, Refusals, add_source, add_target, jobs, natural, source
from opc.dtypes import DType
from opc.errors import CheckError, Diagnostic, RuntimeCallError, fail
from opc.report.tables import table
from opc.tensor.bound import Report, check
from opc.tensor.ir import Function, Tensor

LIMIT = 1 << 33  # scalar evaluations that the oracle is willing to do


@dataclass(frozen=True)
class Outcome:
    """One result of one kernel on one machine against the oracle."""

    kernel: str
    machine: str
    result: str
    report: Report


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_target(parser)
    parser.add_argument(
        "--input", metavar="NAME=FILE.npy", action="append", default=[], help="data of an argument"
    )
    parser.add_argument(
        "--seed", type=natural, default=0, help="seed of the data that is not given (default: 0)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU kernel")


def run(options: argparse.Namespace) -> int:
    """Compile, execute, compare. Raises CheckError E1001 if a result is outside its bound."""
    given = _files(options.input)
    refusals = Refusals.of(options)
    outcomes: list[Outcome] = []
    for job in jobs(options, source(options)):

        def execute(job: Job = job) -> list[Outcome]:
            return _execute(job, options, given)

        outcomes += refusals.attempt(execute) or []
    refusals.close()
    _print(outcomes, options)
    wrong = [o for o in outcomes if not o.report.ok]
    if wrong:
        help = (
            f"repeat with --seed {options.seed}; opc compile --print-after all keeps the IR after every pass"
        )
        raise CheckError(
            [
                Diagnostic("E1001", f"{o.kernel} on {o.machine}: {o.result}: {o.report}", help=help)
                for o in wrong
            ]
        )
    return 0


def _execute(job: Job, options: argparse.Namespace, given: dict[str, Array]) -> list[Outcome]:
    _affordable(job.function)
    failed = Path("build") / job.kernel / "failed"
    built = driver.build(job.function, job.machine, dump=failed, numerics=options.numerics)
    arrays = arguments(job, given, options.seed)
    # The oracle reads before the kernel writes: inout arguments change in place.
    expected = built.oracle(arrays)
    if job.machine.kind == "npu":
        results = driver.npu_kernel(built).simulate(arrays)
    else:
        results = driver.callable_kernel(built, options.threads).results(arrays)
    return [
        Outcome(job.kernel, job.machine.name, name, check({**arrays, **results}[name], expected[name]))
        for name in job.function.results
    ]


def arguments(job: Job, given: dict[str, Array], seed: int) -> dict[str, Array]:
    """The arrays of a run: files where given, seeded data elsewhere. Raises RuntimeCallError E0927."""
    function = job.function
    table_of = {a.tensor.name: a.tensor for a in function.args}
    for name in given:
        if name not in table_of:
            known = ", ".join(table_of)
            raise fail(
                RuntimeCallError,
                "E0927",
                f"'{function.name}' has no argument '{name}'",
                help=f"it has {known}",
            )
    arrays = data.arguments(function, seed, half=job.half)
    return arrays | {name: as_input(_rounded(a, table_of[name]), table_of[name]) for name, a in given.items()}


def _rounded(array: Array, tensor: Tensor) -> Array:
    """File data in the tensor's dtype, so that one file serves every target; other kinds stay as they are."""
    if tensor.dtype is DType.BF16 and array.dtype == np.dtype("V2"):  # how numpy.save stores bfloat16
        return array.view(tensor.dtype.numpy)
    if array.dtype.kind == "f" and tensor.dtype.is_float:
        with np.errstate(over="ignore"):
            return array.astype(tensor.dtype.numpy)
    return array


def _files(items: list[str]) -> dict[str, Array]:
    found = {}
    for item in items:
        name, equals, path = item.partition("=")
        try:
            if not equals:
                raise ValueError("write --input NAME=FILE.npy")
            found[name] = np.load(path, allow_pickle=False)
            if not isinstance(found[name], np.ndarray):
                raise ValueError("it holds several arrays; save one with numpy.save")
        except (OSError, ValueError, EOFError) as problem:
            raise fail(RuntimeCallError, "E0927", f"cannot use --input {item}: {problem}") from None
    return found


def _affordable(function: Function) -> None:
    work = sum(math.prod(p.extents.values()) for op in function.ops for p in op.pieces)
    if work > LIMIT:
        message = f"the oracle would need {work:,} evaluations for '{function.name}', more than {LIMIT:,}"
        raise fail(CheckError, "E1002", message, help="check a smaller size: --set NAME=VALUE")


def _print(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    if options.json:
        sys.stdout.write(json.dumps([_plain(o) for o in outcomes], indent=2) + "\n")
        return
    header = ("kernel", "machine", "result", "worst error", "its bound", "error / bound", "")
    rows = []
    for o in outcomes:
        r = o.report
        figures = (f"{abs(r.actual - r.expected):.3g}", f"{r.bound:.3g}", f"{r.max_ratio:.3f}")
        rows.append((o.kernel, o.machine, o.result, *figures, "ok" if r.ok else "OUTSIDE"))
    sys.stdout.write(table(header, rows) + "\n")


def _plain(o: Outcome) -> dict[str, Any]:
    r = o.report
    return {
        "kernel": o.kernel,
        "machine": o.machine,
        "result": o.result,
        "ok": r.ok,
        "max_error": r.max_error,
        "max_ratio": r.max_ratio,
        "failures": r.failures,
    }
