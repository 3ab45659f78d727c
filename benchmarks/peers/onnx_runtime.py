"""ONNX Runtime, f32 only: its CPU provider has no bfloat16 arithmetic."""

from __future__ import annotations

import os

import numpy as np

from benchmarks.case import Array, Case
from benchmarks.engine import Engine, Prepared, UnsupportedError, optional
from benchmarks.peers import protobuf
from benchmarks.problems.conv import ConvProblem


class OnnxRuntime(Engine):
    """A model that takes and gives channels-last images; results are bound to a preallocated array."""

    def version(self) -> str:
        return f"onnxruntime {optional('onnxruntime').__version__}, IO binding"

    def prepare(self, case: Case) -> Prepared:
        if case.dtype != "f32":
            raise UnsupportedError(f"onnxruntime has no {case.dtype} on a CPU")
        what, ort = ConvProblem(case), optional("onnxruntime")
        arrays = what.arrays()
        x = arrays["x"].transpose(0, 2, 3, 1)
        c = what.conv
        y = np.empty((case.batch, c.out, c.out, c.filters), np.float32)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        if os.environ.get("OPC_BENCH_PASSIVE"):
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(_model(what, arrays), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
        return Prepared(lambda: session.run_with_iobinding(binding), lambda: y, (x,))


def _model(what: ConvProblem, arrays: dict[str, Array]) -> bytes:
    c, w, b = what.conv, *what.folded(arrays)
    batch = what.case.batch
    settings = {"kernel_shape": [c.size] * 2, "strides": [c.stride] * 2, "pads": [c.pad] * 4}
    nodes = [
        protobuf.node("Transpose", ["x"], "planes", perm=[0, 3, 1, 2]),
        protobuf.node("Conv", ["planes", "w", "b"], "conv", **settings),
        protobuf.node("Relu", ["conv"], "relu"),
        protobuf.node("Transpose", ["relu"], "y", perm=[0, 2, 3, 1]),
    ]
    return protobuf.model(
        nodes,
        [protobuf.tensor("w", w), protobuf.tensor("b", b)],
        [protobuf.value("x", (batch, c.image, c.image, c.channels))],
        [protobuf.value("y", (batch, c.out, c.out, c.filters))],
    )
