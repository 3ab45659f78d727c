"""opc itself: the model's first choice."""

from __future__ import annotations

import opc
from benchmarks.case import Array, Case, problem
from benchmarks.engine import Engine, Prepared
from opc import driver


class Own(Engine):
    """``opc.compile`` and ``bind``; called with preallocated results."""

    def version(self) -> str:
        return f"opc {opc.__version__} on {driver.target_machine('cpu').name}, tune=False"

    def prepare(self, case: Case) -> Prepared:
        import kernels_dsl

        what = problem(case)
        path, kind, order = kernels_dsl.path(what.kernel), case.dtype, what.layout
        kernel = driver.compile_sized(path, None, kind, order, None, self.threads, what.sizes)
        arrays = what.arrays()
        params = {s.name: arrays.pop(s.name) for s in kernel.signature.params}
        bound = kernel.bind(**params)
        (out,) = (kernel.empty(s.name) for s in kernel.signature.results)
        inputs = tuple(arrays.values())

        def result() -> Array:
            return out.transpose(0, 2, 3, 1) if what.layout == "nhwc" else out

        return Prepared(lambda: bound(*inputs, out=out), result)
