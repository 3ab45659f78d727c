"""OpenVINO's CPU plugin on a model with channels-last images at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Array, Case, numpy_dtype
from benchmarks.engine import Engine, Prepared, optional
from benchmarks.problems.conv import ConvProblem


class OpenVino(Engine):
    """One request whose input and output tensors are preallocated arrays."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.ov = optional("openvino")

    def version(self) -> str:
        return f"openvino {self.ov.__version__}, one stream, preset tensors"

    def prepare(self, case: Case) -> Prepared:
        what, ov = ConvProblem(case), self.ov
        arrays = what.arrays()
        x = np.ascontiguousarray(arrays["x"].transpose(0, 2, 3, 1))
        c = what.conv
        y = np.empty((case.batch, c.out, c.out, c.filters), numpy_dtype(case.dtype))
        compiled = ov.Core().compile_model(self._model(what, arrays), "CPU", self._settings(case))
        request = compiled.create_infer_request()
        request.set_input_tensor(self._tensor(x))
        request.set_output_tensor(self._tensor(y))
        return Prepared(lambda: request.infer(), lambda: y, (x,))

    def _settings(self, case: Case) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": case.dtype,
            # The process is pinned by the harness; the plugin's own pinning would leave its mask.
            "ENABLE_CPU_PINNING": False,
        }

    def _kind(self, dtype: str) -> Any:
        return self.ov.Type.f32 if dtype == "f32" else self.ov.Type.bf16

    def _tensor(self, array: Array) -> Any:
        if array.dtype == np.float32:
            return self.ov.Tensor(array, shared_memory=True)
        return self.ov.Tensor(array.view(np.uint16), list(array.shape), self.ov.Type.bf16)

    def _model(self, what: ConvProblem, arrays: dict[str, Array]) -> Any:
        ov, op, c = self.ov, optional("openvino.opset13"), what.conv
        kind = self._kind(what.case.dtype)
        w, b = (op.convert(op.constant(a), kind) for a in self._weights(what, arrays))
        x = op.parameter([what.case.batch, c.image, c.image, c.channels], kind, name="x")
        planes = op.transpose(x, op.constant(np.array([0, 3, 1, 2])))
        pad = [c.pad] * 2
        conv = op.convolution(planes, w, [c.stride] * 2, pad, pad, [1, 1])
        last = op.transpose(op.relu(op.add(conv, b)), op.constant(np.array([0, 2, 3, 1])))
        return ov.Model([last], [x], "conv")

    def _weights(self, what: ConvProblem, arrays: dict[str, Array]) -> tuple[Array, Array]:
        w, b = what.folded(arrays)
        return w, b.reshape(1, -1, 1, 1)
