"""PyTorch: eager, torch.compile with freezing, and oneDNN's fused convolution without dispatch around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Array, Case, numpy_dtype
from benchmarks.engine import Engine, Prepared, optional
from benchmarks.problems.conv import EPS, ConvProblem
from benchmarks.problems.conv_grad import ConvGradProblem
from benchmarks.problems.matmul import MatmulProblem


class _Torch(Engine):
    """What the three share. Memory comes from jemalloc where it is preloaded: glibc maps fresh pages for
    every large result, which would be measured instead of the kernel.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.torch = optional("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_grad_enabled(False)

    def version(self) -> str:
        return f"torch {self.torch.__version__}, channels last"

    def tensor(self, array: Array) -> Any:
        """The array as a tensor with the same memory."""
        if array.dtype == np.float32:
            return self.torch.from_numpy(array)
        return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)

    def array(self, tensor: Any) -> Array:
        """An image tensor as ``[N, H, W, C]`` in float32."""
        found: Array = tensor.detach().permute(0, 2, 3, 1).float().numpy()
        return found

    def memory(self, tensor: Any) -> Array:
        """The tensor's memory as an array of any type of that size."""
        bits = tensor if tensor.dtype == self.torch.float32 else tensor.view(self.torch.int16)
        found: Array = bits.numpy()
        return found

    def folded(self, what: ConvProblem) -> tuple[Any, Any, Any]:
        """Image, weights and bias, batch normalisation folded."""
        arrays, kind = what.arrays(), numpy_dtype(what.case.dtype)
        w, b = what.folded(arrays)
        last = self.torch.channels_last
        weights = self.tensor(w.astype(kind)).to(memory_format=last)
        return self.tensor(arrays["x"]), weights, self.tensor(b.astype(kind))


class OneDnn(_Torch):
    """oneDNN's convolution with ReLU: weights and bias folded, weights packed ahead for this shape."""

    def version(self) -> str:
        return f"torch {self.torch.__version__}, mkldnn::_convolution_pointwise, packed weights"

    def prepare(self, case: Case) -> Prepared:
        what, ops = ConvProblem(case), self.torch.ops.mkldnn
        x, w, b = self.folded(what)
        pad, stride, one = [what.conv.pad] * 2, [what.conv.stride] * 2, [1, 1]
        packed = ops._reorder_convolution_weight(w, pad, stride, one, 1, list(x.shape))
        call = ops._convolution_pointwise.default  # the overload itself: no overload resolution per call
        state: dict[str, Any] = {}

        def run() -> None:
            state["y"] = None  # its memory serves again
            state["y"] = call(x, packed, b, pad, stride, one, 1, "relu", [], "")

        return Prepared(run, lambda: self.array(state["y"]), (self.memory(x),))


class Gradient(_Torch):
    """``aten::convolution_backward``, asked for one gradient: oneDNN's, with its reorders."""

    def prepare(self, case: Case) -> Prepared:
        what, torch, last = ConvGradProblem(case), self.torch, self.torch.channels_last
        arrays, c = what.arrays(), what.conv
        d_y = self.tensor(arrays["d_y"])
        image = torch.empty(case.batch, c.channels, c.image, c.image, dtype=d_y.dtype)
        weights = torch.empty(c.filters, c.channels, c.size, c.size, dtype=d_y.dtype)
        x, w = (
            self.tensor(arrays[name]) if name in arrays else other.to(memory_format=last)
            for name, other in (("x", image), ("w", weights))
        )
        mask = [what.of == "data", what.of == "weights", False]
        stride, pad, one, zero = [c.stride] * 2, [c.pad] * 2, [1, 1], [0, 0]
        call = torch.ops.aten.convolution_backward.default
        state: dict[str, Any] = {}

        def run() -> None:
            state["y"] = None
            state["y"] = call(d_y, x, w, None, stride, pad, one, False, zero, 1, mask)

        return Prepared(run, lambda: self.array(state["y"][mask.index(True)]), (self.memory(d_y),))


class Eager(_Torch):
    """``conv2d`` with folded weights, then ``relu_``."""

    def prepare(self, case: Case) -> Prepared:
        what = ConvProblem(case)
        x, w, b = self.folded(what)
        conv2d, stride, pad = self.torch.conv2d, what.conv.stride, what.conv.pad
        state: dict[str, Any] = {}

        def run() -> None:
            state["y"] = None
            state["y"] = conv2d(x, w, b, stride, pad).relu_()

        return Prepared(run, lambda: self.array(state["y"]), (self.memory(x),))


class Compiled(_Torch):
    """The module that a user writes, through inductor with frozen parameters."""

    def version(self) -> str:
        return f"torch {self.torch.__version__}, torch.compile, freezing, channels last"

    def prepare(self, case: Case) -> Prepared:
        what, torch = ConvProblem(case), self.torch
        settings = optional("torch._inductor.config")
        settings.freezing, settings.compile_threads = (
            True,
            1,
        )  # no pool of compilers that outlives the compilation
        torch._dynamo.reset()
        arrays = what.arrays()
        model = torch.compile(self._module(what, arrays))
        x = self.tensor(arrays["x"])
        state: dict[str, Any] = {}

        def run() -> None:
            state["y"] = None
            state["y"] = model(x)

        return Prepared(run, lambda: self.array(state["y"]), (self.memory(x),))

    def _module(self, what: ConvProblem, arrays: dict[str, Array]) -> Any:
        torch, c = self.torch, what.conv
        conv = torch.nn.Conv2d(c.channels, c.filters, c.size, c.stride, c.pad, bias=False)
        norm = torch.nn.BatchNorm2d(c.filters, eps=EPS)
        module = torch.nn.Sequential(conv, norm, torch.nn.ReLU()).eval()
        values = {"0.weight": "w", "1.weight": "gamma", "1.bias": "beta"}
        values |= {"1.running_mean": "mean", "1.running_var": "var"}
        state = {k: torch.from_numpy(arrays[v].astype(np.float32)) for k, v in values.items()}
        module.load_state_dict(state, strict=False)
        kind = torch.float32 if what.case.dtype == "f32" else torch.bfloat16
        return module.to(kind).to(memory_format=torch.channels_last)


class Matmul(_Torch):
    """``torch.matmul`` into a preallocated result: MKL in f32, oneDNN in bf16."""

    def version(self) -> str:
        return f"torch {self.torch.__version__}, matmul with out="

    def prepare(self, case: Case) -> Prepared:
        what, torch = MatmulProblem(case), self.torch
        arrays = what.arrays()
        a, b = (
            self.tensor(arrays[name]).transpose(-1, -2) if flag else self.tensor(arrays[name])
            for name, flag in zip("ab", what.transposed, strict=True)
        )
        y = torch.empty((*a.shape[:-1], b.shape[-1]), dtype=a.dtype)
        return Prepared(lambda: torch.matmul(a, b, out=y), lambda: y.float().numpy())
