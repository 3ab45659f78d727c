"""``opc bench FILE.k``: time a kernel on this CPU, against what its machine could do."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opc import data, driver
from opc.commands.options import add_source, add_target, jobs, source
from opc.commands.tuning import add_tune, table_of, tuned
from opc.dtypes import DType
from opc.machine.model import Machine
from opc.peak import measure
from opc.report.tables import duration, table
from opc.tensor.ir import Function
from opc.work import work_of


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source(parser)
    add_target(parser)
    parser.set_defaults(target="cpu")
    add_tune(parser)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="time to measure each kernel")


def run(options: argparse.Namespace) -> int:
    """Time every kernel with bound parameters; median and best of repeated calls, against measured limits."""
    if options.target == "npu":
        sys.stderr.write("opc bench: error: the NPU is simulated; opc compile prints its cycles\n")
        return 2
    rows: list[dict[str, Any]] = []
    file = source(options)
    for job in jobs(options, file):
        choice = tuned(job, file, options)
        if choice and not options.json:
            sys.stdout.write(f"{job.kernel}\n{table_of(choice)}\n")
        plans = choice.plans if choice else ""
        failed = Path("build") / job.kernel / "failed"
        built = driver.build(job.function, job.machine, dump=failed, numerics=options.numerics, plans=plans)
        kernel = driver.callable_kernel(built, options.threads)
        arrays = data.arguments(job.function)
        inputs = {n: a for n, a in arrays.items() if kernel.signature.slot(n).kind != "param"}
        params = {n: a for n, a in arrays.items() if n not in inputs}
        bound = kernel.bind(**params)
        out = tuple(kernel.empty(s.name) for s in kernel.signature.results)
        times = sample(lambda b=bound, i=inputs, o=out: b(**i, out=o), options.seconds)  # type: ignore[misc]
        median = statistics.median(times)
        work, peak = work_of(job.function), measure(job.machine, _operand(job.function, job.machine))
        rows.append(
            {
                "kernel": job.kernel,
                "machine": job.machine.name,
                "threads": options.threads,
                "plans": plans,
                "calls": len(times),
                "median_seconds": median,
                "best_seconds": min(times),
                "gflops": work.operations / median / 1e9,
                "gbytes_per_second": work.bytes / median / 1e9,
                "limit_gflops": peak.operations * options.threads / 1e9,
                "limit_gbytes_per_second": peak.bytes * options.threads / 1e9,
            }
        )
    _print(rows, options.json)
    return 0


def _operand(function: Function, machine: Machine) -> DType:
    """Element type whose products the kernel is held against."""
    return function.args[0].tensor.dtype if function.args else machine.default_dtype


def sample(call: Callable[[], object], seconds: float) -> list[float]:
    """Times of single calls: three to warm up, then at least five, for about ``seconds``."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 100_000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    header = ("kernel", "machine", "threads", "median", "best", "GFLOP/s", "of limit", "GB/s", "of limit")
    shown = [
        (
            r["kernel"],
            r["machine"],
            r["threads"],
            duration(r["median_seconds"]),
            duration(r["best_seconds"]),
            f"{r['gflops']:.1f}",
            _share(r["gflops"], r["limit_gflops"]),
            f"{r['gbytes_per_second']:.2f}",
            _share(r["gbytes_per_second"], r["limit_gbytes_per_second"]),
        )
        for r in rows
    ]
    sys.stdout.write(table(header, shown) + "\n")


def _share(value: float, limit: float) -> str:
    return f"{value / limit:.0%}" if limit else "n/a"
