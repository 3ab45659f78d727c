"""opc itself: the model's first choice, the tuned kernel, the numerics licence, and the order as written."""

from __future__ import annotations

import inspect
from typing import Any

import opc
from benchmarks.case import Array, Case, problem
from benchmarks.engine import Engine, Prepared, UnsupportedError
from opc import driver


class Own(Engine):
    """``opc.compile`` and ``bind``, called with a preallocated result; the cost model's choice."""

    options: dict[str, Any] = {}  # noqa: RUF012  (of the class: a constant)

    def version(self) -> str:
        """Raises UnsupportedError if this opc lacks an option."""
        known = inspect.signature(opc.compile).parameters
        for name in self.options:
            if name not in known:
                raise UnsupportedError(f"opc.compile has no {name}=")
        settings = {"tune": False, **self.options}
        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        return f"opc {opc.__version__} on {driver.target_machine('cpu').name}, {shown}"

    def prepare(self, case: Case) -> Prepared:
        what = problem(case)
        kernel = self.compile(case)
        arrays = what.arrays()
        params = {s.name: arrays.pop(s.name) for s in kernel.signature.params}
        bound = kernel.bind(**params)
        (out,) = (kernel.empty(s.name) for s in kernel.signature.results)
        inputs = tuple(arrays.values())

        def result() -> Array:
            return out.transpose(0, 2, 3, 1) if what.layout == "nhwc" else out

        return Prepared(lambda: bound(*inputs, out=out), result, inputs)

    def compile(self, case: Case) -> opc.Kernel:
        """The kernel of a case."""
        what = problem(case)
        options: dict[str, Any] = {
            "kernel": what.kernel,
            "dtype": case.dtype,
            "layout": what.layout,
            **what.sizes,
            **self.options,
        }
        return opc.compile(what.source, threads=self.threads, **options)


class Tuned(Own):
    """The best few of the model's choices were timed when the kernel was compiled."""

    options = {"tune": True}  # noqa: RUF012


class Fast(Own):
    """With the licence to round otherwise, which allows Winograd; tuned as well."""

    options = {"numerics": "fast", "tune": True}  # noqa: RUF012

    def compile(self, case: Case) -> opc.Kernel:
        if case.dtype != "f32":
            raise UnsupportedError(f"the licence changes nothing in {case.dtype}")
        return super().compile(case)


class SourceOrder(Own):
    """The same instructions without the passes that reorder them: what the order alone is worth."""

    def version(self) -> str:
        return f"{super().version()}, without the reordering passes"

    def compile(self, case: Case) -> opc.Kernel:
        from opc.dtypes import DType

        what, machine = problem(case), driver.target_machine("cpu")
        if not machine.feeds(DType(case.dtype)):
            raise UnsupportedError(f"{machine.name} has no tiles for {case.dtype}: nothing is reordered")
        function = driver.specialise(
            what.source, case.family, machine, None, what.sizes, case.dtype, what.layout
        )
        return driver.callable_kernel(driver.in_source_order(driver.build(function, machine)), self.threads)
