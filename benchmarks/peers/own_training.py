"""opc in training: the two kernels that ``opc.grad`` makes of a block."""

from __future__ import annotations

from typing import Any

import numpy as np

import opc
from benchmarks.case import Case
from benchmarks.engine import Prepared
from benchmarks.peers.own import Own
from benchmarks.problems.train import WRT, TrainProblem


class Step(Own):
    """``pair.fwd``, then ``pair.bwd``, into memory of the first call; weights are packed in every call.

    As torch frees what it saved for a backward call, backward may write over it here.
    """

    def prepare(self, case: Case) -> Prepared:
        what = TrainProblem(case)
        pair, arrays = self._pair(what), what.arrays()
        running = np.zeros(what.conv.filters, np.float32), np.ones(what.conv.filters, np.float32)
        arguments, dy = (*(arrays[name] for name in WRT), *running), arrays["d_y"]
        y, saved = pair.fwd(*arguments)
        gradients = pair.bwd(saved, dy)

        def call() -> None:
            _, again = pair.fwd(*arguments, out=y, saved=saved)
            pair.bwd(again, dy, out=gradients)

        def peak() -> int:
            """There are no gradients yet while forward works."""
            forward, backward = (self._work(kernel) for kernel in (pair.fwd.kernel, pair.bwd.kernel))
            most = max(forward, backward + sum(a.nbytes for a in gradients))
            return int(y.nbytes + saved.nbytes + most)

        return Prepared(call, lambda: what.joined((y, *gradients)), weights=(arrays["w"],), peak=peak)

    def _pair(self, what: TrainProblem) -> Any:
        options: dict[str, Any] = {
            "dtype": what.case.dtype,
            "layout": what.layout,
            **what.sizes,
            **self.options,
        }
        return opc.grad(what.source, wrt=WRT, threads=self.threads, donate=True, **options)

    def _work(self, kernel: opc.Kernel) -> int:
        """Bytes of packed weights and of the workspace, unless they lie in a result."""
        return kernel.native.code.executable.own_memory(self.threads)


class TunedStep(Step):
    """The best few of the model's choices were timed when the kernels were compiled."""

    options = {"tune": True}  # noqa: RUF012
