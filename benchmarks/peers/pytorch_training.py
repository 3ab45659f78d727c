"""PyTorch in training: convolution, batch norm with batch statistics and ReLU, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Array, Case
from benchmarks.engine import Prepared, optional
from benchmarks.peers.pytorch import _Torch
from benchmarks.problems.train import EPS, MOMENTUM, WRT, TrainProblem


class Eager(_Torch):
    """Functions of ``torch.nn.functional``, ReLU in place; gradients by ``torch.autograd.grad``."""

    def prepare(self, case: Case) -> Prepared:
        what, torch = TrainProblem(case), self.torch
        torch.set_grad_enabled(True)
        arrays = what.arrays()
        arguments = [self.tensor(arrays[name]) for name in WRT]
        # A view would share its memory with the array, whose owner rewrites the weights before each call.
        arguments[1] = arguments[1].contiguous(memory_format=torch.channels_last)
        weights = self.memory(arguments[1])
        for tensor in arguments:
            tensor.requires_grad_()
        running = torch.zeros(what.conv.filters), torch.ones(what.conv.filters)
        dy, forward = self.tensor(arrays["d_y"]), self.forward(what)
        state: dict[str, Any] = {}

        def call() -> None:
            state.clear()  # its memory serves again
            y = forward(*arguments, *running)
            state["found"] = (y, *torch.autograd.grad(y, arguments, dy))

        def result() -> Array:
            return what.joined([t.detach().float().numpy() for t in state["found"]])

        def peak() -> int:
            state.clear()
            return _peak(torch, call)

        return Prepared(call, result, weights=(weights,), peak=peak)

    def forward(self, what: TrainProblem) -> Any:
        """What computes y from the arguments and the running statistics."""
        torch, stride, pad = self.torch, what.conv.stride, what.conv.pad
        batch_norm = torch.nn.functional.batch_norm

        def block(x: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
            a = torch.conv2d(x, w, None, stride, pad)
            return batch_norm(a, mean, var, gamma, beta, True, MOMENTUM, EPS).relu_()

        return block


class Compiled(Eager):
    """The same functions through inductor, which compiles in the first call."""

    def version(self) -> str:
        return f"torch {self.torch.__version__}, torch.compile, channels last"

    def prepare(self, case: Case) -> Prepared:
        prepared = super().prepare(case)
        prepared.call()
        return prepared

    def forward(self, what: TrainProblem) -> Any:
        settings = optional("torch._inductor.config")
        settings.compile_threads = 1  # no pool of compilers that outlives the compilation
        self.torch._dynamo.reset()
        return self.torch.compile(super().forward(what), dynamic=False)


def _peak(torch: Any, call: Any) -> int:
    """Most bytes that torch's allocator held at once during a call, beyond what it held before."""
    profiler = optional("torch.profiler")
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(np.cumsum([size for _, size in changes]).max())
